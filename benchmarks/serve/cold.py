"""A request whose adapter is in host memory alone, beside one whose adapter is in the pool.

While others decode, so that a step hides the copy, and with the engine to itself, where nothing does.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.serve.outcome import Summary, percentile
from benchmarks.serve.run import request_of
from benchmarks.serve.setups import Setup
from benchmarks.serve.workload import Item
from worker.engine.engine import Engine
from worker.types import HostedAdapter, StepResult

_PROMPT, _OUTPUT = 128, 16  # tokens of a request that comes
_RANK = 16  # of its adapter, where the setup has such
_FIRST = 1_000_000  # adapters' numbers


@dataclass(frozen=True)
class ColdTest:
    """What is done.

    Attributes:
        others: Sequences that decode, each with an adapter of its own.
        arrivals: Requests that come while they do, one after the other, each with an adapter of its own; as many others
            come when nobody decodes.
        spacing: Steps between arrivals.
    """

    others: int = 32
    arrivals: int = 8
    spacing: int = 40

    def adapters(self, setup: Setup) -> tuple[list[int], list[int]]:
        """Of the others, and of those that come while they decode and when nobody does, by number.

        And of one more of these, to warm up with.

        No workload has adapters of these numbers, so none of them is in the pool before.
        """
        wanted = _RANK if _RANK in setup.ranks else setup.ranks[0]
        every = len(setup.ranks)
        first = _FIRST - _FIRST % every + setup.ranks.index(wanted)
        coming = range(first, first + every * (2 * self.arrivals + 1), every)
        return list(range(2 * _FIRST, 2 * _FIRST + self.others)), list(coming)


@dataclass
class _Phase:
    """Times of one round of arrivals, in milliseconds: first tokens, and of the others each sequence's tokens."""

    first_tokens: list[float] = field(default_factory=list)
    tokens: dict[str, list[float]] = field(default_factory=dict)

    def per_token(self) -> list[float]:
        """Mean time per token of each of the others."""
        return [(times[-1] - times[0]) / (len(times) - 1) for times in self.tokens.values()]

    def longest_pauses(self) -> list[float]:
        """Between two tokens of each of the others."""
        return [max(after - before for before, after in pairwise(times)) for times in self.tokens.values()]


def measure_cold(engine: Engine, adapters: Mapping[int, HostedAdapter], setup: Setup, test: ColdTest) -> Summary:
    """Rounds beside new sequences: nobody comes; requests with adapters in host memory; with the same, now resident.

    And of the last two without others.
    """
    others, coming = test.adapters(setup)
    beside, idle = coming[: test.arrivals], coming[test.arrivals : -1]
    rounds = _Rounds(engine, adapters, setup, test)
    rounds.play(others, [coming[-1]] * 2)  # compiles and records
    alone = rounds.play(others, [])
    cold = rounds.play(others, beside)
    resident = rounds.play(others, beside)
    idle_cold, idle_resident = (statistics.median(rounds.play([], idle).first_tokens) for _ in range(2))
    tpot = {
        f"others_tpot_{name}_ms": round(statistics.median(one.per_token()), 3)
        for name, one in (("alone", alone), ("resident", resident), ("cold", cold))
    }
    moved = [after / before for before, after in zip(resident.per_token(), cold.per_token(), strict=True)]
    first_cold, first_resident = (statistics.median(one.first_tokens) for one in (cold, resident))
    return {
        "first_token_cold_ms": round(first_cold, 3),
        "first_token_resident_ms": round(first_resident, 3),
        "first_token_cold_max_ms": round(max(cold.first_tokens), 3),
        "first_token_resident_max_ms": round(max(resident.first_tokens), 3),
        "cold_minus_resident_ms": round(first_cold - first_resident, 3),
        "idle_first_token_cold_ms": round(idle_cold, 3),
        "idle_first_token_resident_ms": round(idle_resident, 3),
        "idle_cold_minus_resident_ms": round(idle_cold - idle_resident, 3),
        **tpot,
        "others_tpot_by_resident": round(max(moved), 4),
        "others_pause_cold_ms": round(percentile(sorted(cold.longest_pauses()), 0.5), 3),
        "others_pause_resident_ms": round(percentile(sorted(resident.longest_pauses()), 0.5), 3),
    }


class _Rounds:
    """Rounds on one engine."""

    def __init__(self, engine: Engine, adapters: Mapping[int, HostedAdapter], setup: Setup, test: ColdTest) -> None:
        self._engine = engine
        self._adapters = adapters
        self._setup = setup
        self._test = test
        self._num_rounds = 0

    def play(self, others: Sequence[int], arrivals: Sequence[int]) -> _Phase:
        """Others start and decode, requests with these adapters come, and all go on for as many steps in any case."""
        self._num_rounds += 1
        engine, test, phase = self._engine, self._test, _Phase()
        steps = test.spacing * (test.arrivals + 1)
        for adapter in others:
            name = f"other-{self._num_rounds}-{adapter}"
            self._add(name, adapter, 2 * steps)
            phase.tokens[name] = []
        while not all(phase.tokens.values()):
            self._note(engine.step(), phase, {})
        for times in phase.tokens.values():
            times.clear()
        sent: dict[str, float] = {}
        left = list(arrivals)
        for step in range(steps):
            if left and step % test.spacing == test.spacing // 2:
                adapter = left.pop(0)
                name = f"comes-{self._num_rounds}-{step}"
                sent[name] = time.perf_counter()
                self._add(name, adapter, _OUTPUT)
            self._note(engine.step(), phase, sent)
        for name in phase.tokens:
            engine.cancel(name)
        while engine.has_work:
            engine.step()
        assert len(phase.first_tokens) == len(arrivals), "an arrival got no token in its time: make the spacing larger"
        return phase

    def _add(self, name: str, adapter: int, num_output: int) -> None:
        first = self._num_rounds * 31 + adapter * 7
        prompt = tuple(place % self._setup.vocab_size for place in range(first, first + _PROMPT))
        self._engine.add(request_of(name, Item(adapter, prompt, num_output), self._adapters))

    def _note(self, result: StepResult, phase: _Phase, sent: dict[str, float]) -> None:
        now = time.perf_counter()
        assert not result.failures, result.failures[0]
        for output in result.outputs:
            if output.request_id in phase.tokens:
                phase.tokens[output.request_id].append(1000 * now)
            elif output.request_id in sent:
                phase.first_tokens.append(1000 * (now - sent.pop(output.request_id)))
