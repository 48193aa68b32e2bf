"""Periods of load, each with a check at its end."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from benchmarks.serve.engines import EngineServer
from benchmarks.serve.setups import Setup
from benchmarks.serve.workload import Item
from benchmarks.soak.load import Asked, Bounds, requests
from benchmarks.soak.memory import MemoryWatch
from benchmarks.soak.witness import Story, Witness, Wrong
from worker.types import EngineRequest, EngineStats, FinishReason, StepResult

_REPEATED = 4  # requests of a period that are served again, alone
_TOP = 8  # tokens whose probabilities are compared where two runs part


@dataclass
class Soak:
    """Random load on an engine, until a clock says that it is enough.

    Attributes:
        server: Whose engine, with little room in its pool and in host memory.
        setup: What it serves.
        bounds: Of the load.
        rng: Of everything.
        tolerance: By how much the log-probabilities of two tokens may differ, alone, for either to be right in a
            batch: a GEMM of another size rounds otherwise.
        memory: Watches it.
        counts: What happened.
    """

    server: EngineServer
    setup: Setup
    bounds: Bounds
    rng: random.Random
    tolerance: float
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    counts: Counter[str] = field(default_factory=Counter)
    _witness: Witness = field(default_factory=Witness)
    _asked: dict[str, Asked] = field(default_factory=dict)
    _cancels: list[tuple[int, str]] = field(default_factory=list)
    _num_steps: int = 0
    _stats: EngineStats = field(default_factory=EngineStats)

    def run(self, has_time: Callable[[], bool]) -> None:
        """Period after period. Raises `Wrong`, or what the engine's own checks raise."""
        while has_time():
            self.period()

    def period(self) -> None:
        """Load, the way to idleness, and the checks that idleness allows."""
        coming = list(requests(self.rng, self.setup, self.bounds, self.counts["periods"]))
        while coming or self._witness.num_open:
            room = self.bounds.in_flight - self._witness.num_open
            for _ in range(min(len(coming), self.rng.randrange(room + 1) if room > 0 else 0)):
                self._ask(coming.pop())
            self._step()
        stories = self._witness.take_stories()
        self._check_idle()
        self.memory.look()
        self._tally(stories)
        repeatable = [story for story in stories if story.is_repeatable]
        for story in self.rng.sample(repeatable, min(_REPEATED, len(repeatable))):
            self._repeat(story)
        self.counts["periods"] += 1

    def _ask(self, asked: Asked) -> None:
        name = asked.request.request_id
        self._witness.expect(asked)
        self._asked[name] = asked
        self.server.host.ask(name, Item(asked.adapter, asked.request.prompt_token_ids, asked.request.max_tokens))
        if asked.cancel_after is not None:
            self._cancels.append((self._num_steps + asked.cancel_after, name))

    def _step(self) -> StepResult:
        engine = self.server.engine
        for ready in self.server.host.take_ready():
            engine.add(replace(self._asked[ready.request_id].request, adapter=ready.adapter))
        due = [name for at, name in self._cancels if at <= self._num_steps]
        self._cancels = [(at, name) for at, name in self._cancels if at > self._num_steps]
        for name in due:
            if name in self._asked:
                self._witness.cancel(name)
                engine.cancel(name)
        result = engine.step()
        self._num_steps += 1
        for name in self._witness.hear(result):
            self.server.host.end(name)
            del self._asked[name]
        self._stats = result.stats
        return result

    def _check_idle(self) -> None:
        """The engine checks its pool and adapters itself whenever it is idle; what it says must fit."""
        while self.server.engine.has_work:
            self._step()
        stats = self._stats
        if stats.kv_pages or stats.free_pages + stats.adapter_pages != stats.total_pages:
            raise Wrong(f"pages leaked: {stats}")
        if stats.num_running or stats.num_waiting:
            raise Wrong(f"sequences leaked: {stats}")

    def _tally(self, stories: list[Story]) -> None:
        self.counts["requests"] += len(stories)
        self.counts["tokens"] += sum(len(story.token_ids) for story in stories)
        self.counts["refused"] += sum(story.failure is not None for story in stories)
        self.counts["cancelled"] += sum(story.finish_reason is FinishReason.CANCELLED for story in stories)
        self.counts["steps"] = self._num_steps
        self.counts["preemptions"] = self._stats.num_preemptions
        self.counts["adapter loads"] = self._stats.num_loads

    def _repeat(self, story: Story) -> None:
        """Serves a request again, alone; up to rounding it must have the same tokens."""
        name = f"again-{story.asked.request.request_id}"
        request = replace(story.asked.request, request_id=name, logprob_count=_TOP)
        self._ask(Asked(request, story.asked.adapter))
        position = 0
        parted = False
        while self._witness.num_open:
            for output in self._step().outputs:
                for token_id, logprobs in zip(output.token_ids, output.logprobs, strict=True):
                    before = story.token_ids[position]
                    if not parted and token_id != before:
                        self._judge(request, position, before, dict(logprobs.top), logprobs.logprob)
                        parted = True
                    position += 1
        self._witness.take_stories()
        self._check_idle()
        self.counts["repeated"] += 1
        self.counts["parted at a tie"] += parted

    def _judge(self, request: EngineRequest, position: int, before: int, top: dict[int, float], best: float) -> None:
        """From here on the two runs may differ, if either token might have been chosen."""
        if best - top.get(before, float("-inf")) > self.tolerance:
            raise Wrong(
                f"{request.request_id}: token {position} was {before} in company, whose log-probability alone is "
                f"{best - top.get(before, float('-inf')):.3g} below the largest"
            )
