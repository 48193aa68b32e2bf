"""The engine ahead of a device that runs each step as late, and copies as early or late, as its streams allow.

What a step reads is read when it runs, not when it is launched, and copies are done when a step or the host waits for
them, in their order. So a page that was handed on while a step or a copy could still write to it, a step that did not
wait for its adapter, or a host page given back before it was copied, gives wrong tokens or fails.
"""

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.unit.worker_engine.fakes import VOCAB, Harness, adapter, expected_tokens
from tests.unit.worker_engine.test_engine import request
from worker.adapters.residency import Load
from worker.engine.config import EngineConfig
from worker.engine.engine import HIDDEN_BYTES_PER_S
from worker.model.batch import ForwardBatch
from worker.types import EngineRequest, FinishReason, PositionLogprobs


@dataclass
class LateTokens:
    """Tokens of a step that runs when it must: when the next is launched, or when somebody asks for them."""

    tokens: torch.Tensor
    shape_next: bool
    arrive: Callable[[], None]
    logprobs: dict[int, PositionLogprobs] = field(default_factory=dict)

    @property
    def token_ids(self) -> list[int]:
        self.arrive()
        return self.tokens.tolist()


class LateDevice:
    """Stands in the place of an engine's model, loader and sampler."""

    def __init__(self, harness: Harness, rng: random.Random, leases: dict[str, int], *, copies_early: bool) -> None:
        engine = harness.engine
        self._model, self._loader = engine._model, engine._loader
        engine._model = engine._loader = engine._sampler = self
        self._rng = rng
        self._leases = leases
        self._copies_early = copies_early
        self._launched: Callable[[], None] | None = None
        self._late: list[Load] = []  # copies that were not done yet
        self._held: list[Load] = []  # those of them that the next step waits for
        self._arrived: list[str] = []

    def perform(self, loads: Iterable[Load]) -> None:
        loads = sorted(loads, key=lambda load: load.after_step)
        if self._copies_early:
            self._copy([load for load in loads if not load.after_step])
        self._run()
        if self._copies_early:
            self._copy([load for load in loads if load.after_step])
        else:
            self._late += loads

    def take_arrived(self) -> list[str]:
        if self._rng.random() < 0.3:
            self._copy_late(self._rng.randint(0, len(self._late)))
        on_their_way = {load.digest for load in self._late}
        arrived, self._arrived = self._arrived, []
        return [digest for digest in arrived if digest not in on_their_way]

    def hold_step(self, needed: Callable[[], Collection[str]]) -> None:
        if self._late:
            digests = needed()
            last = max((i for i, load in enumerate(self._late) if load.digest in digests), default=-1)
            self._held, self._late = self._late[: last + 1], self._late[last + 1 :]

    def finish(self, digest: str) -> None:
        if any(load.digest == digest for load in self._held):
            self._copy_held()
        self._copy_late(max((i + 1 for i, load in enumerate(self._late) if load.digest == digest), default=0))

    def _copy_late(self, count: int) -> None:
        copied, self._late = self._late[:count], self._late[count:]
        if copied:
            self._copy_held()
        self._copy(copied)

    def _copy_held(self) -> None:
        held, self._held = self._held, []
        self._copy(held)

    def forward(self, batch, pages) -> torch.Tensor:
        assert self._launched is None, "two steps at once"
        self._batch, self._pages = batch, pages
        return torch.zeros(len(batch.logit_rows), VOCAB)

    def sample(self, logits, sequences) -> LateTokens:
        batch, pages = self._batch, self._pages
        tokens = torch.zeros(len(sequences), dtype=torch.int64)

        def step() -> None:
            self._copy_held()
            tokens.copy_(self._model.forward(batch, pages)[: len(sequences)].argmax(-1))

        def arrive() -> None:
            if self._launched is step:
                self._run()

        self._launched = step
        return LateTokens(tokens, self._rng.random() < 0.1, arrive)

    def _run(self) -> None:
        step, self._launched = self._launched, None
        if step is not None:
            step()

    def _copy(self, loads: list[Load]) -> None:
        for load in loads:
            assert self._leases[load.digest] > 0, "host pages were given back before they were copied"
            self._loader.perform([load])
            self._arrived.append(load.digest)


def drawn(rng: random.Random, index: int) -> EngineRequest:
    uses = rng.choice([None, *(adapter(marker, marker % 3 + 1) for marker in range(1, 8))])
    stops = frozenset(rng.sample(range(VOCAB), rng.choice((0, 0, 3))))
    prompt, max_tokens, priority = rng.randint(1, 14), rng.randint(1, 16), rng.choice((0, 0, 1))
    return request(f"r{index}", prompt, max_tokens, adapter=uses, stop_token_ids=stops, priority=priority)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("copies_early", [False, True])
def test_a_late_device_gives_the_same_tokens(seed: int, copies_early: bool) -> None:
    rng = random.Random(seed)
    config = EngineConfig(
        context_length=40,
        block_size=4,
        max_step_tokens=rng.choice((8, 16, 40)),
        max_running=rng.choice((2, 4, 8)),
        watermark=rng.choice((0.0, 0.1)),
        prefetch_window=rng.choice((0, 2, 8)),
        overlap=rng.random() < 0.85,
    )
    harness = Harness(config, rng.choice((13, 16, 24)), max_queued_pages=rng.choice((None, 2, 4)))
    leases: dict[str, int] = {}
    LateDevice(harness, rng, leases, copies_early=copies_early)
    sent: list[EngineRequest] = []
    going: dict[str, EngineRequest] = {}
    while len(sent) < 50 or harness.engine.has_work:
        for _ in range(rng.choice((0, 0, 1, 3)) if len(sent) < 50 else 0):
            coming = drawn(rng, len(sent))
            sent.append(coming)
            going[coming.request_id] = coming
            if coming.adapter is not None:
                leases[coming.adapter.digest] = leases.get(coming.adapter.digest, 0) + 1
            harness.engine.add(coming)
        if going and rng.random() < 0.15:
            harness.engine.cancel(rng.choice(list(going)))
        harness.step()
        for name in [name for name in going if name in harness.endings]:
            ended = going.pop(name)
            if ended.adapter is not None:
                leases[ended.adapter.digest] -= 1
    for one in sent:
        tokens, reason = expected_tokens(one, config.context_length)
        (ending,) = harness.endings[one.request_id]
        given = harness.tokens.get(one.request_id, [])
        if ending is FinishReason.CANCELLED:
            assert given == tokens[: len(given)]
        else:
            assert (given, ending) == (tokens, reason)


@pytest.mark.parametrize(("overlap", "step_s", "most"), [(True, 0.0, 1), (True, 3.5, 3), (False, 3.5, 1)])
def test_as_many_adapters_are_copied_as_the_step_in_flight_hides(overlap: bool, step_s: float, most: int) -> None:
    """The first step has none in flight; then copies take their share of as long as the last step took."""
    now = [0.0]
    config = EngineConfig(
        context_length=40, block_size=4, max_step_tokens=64, max_running=16, prefetch_window=0, overlap=overlap
    )
    harness = Harness(config, 64, max_queued_pages=1, clock=lambda: now[0])
    one_page_s = harness.storage.page_bytes / HIDDEN_BYTES_PER_S
    compute = harness.model.forward

    def slowly(batch: ForwardBatch, pages: Tensor) -> Tensor:
        now[0] += step_s * one_page_s
        return compute(batch, pages)

    harness.model.forward = slowly  # type: ignore[method-assign]
    for marker in range(1, 10):
        harness.engine.add(request(f"r{marker}", 2, 12, adapter=adapter(marker)))
    loads = [0, *(harness.step().stats.num_loads for _ in range(6))]
    copied = [after - before for before, after in pairwise(loads)]
    assert copied[0] == 1
    assert max(copied) == most
    harness.run()
    assert len(harness.endings) == 9
