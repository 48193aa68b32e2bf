"""A state machine over the engine with tiny bounds: arrivals, cancels, preemption, adapters that do not all fit.

The model reads its context and its adapter back from pages (see `fakes`), so a page that was handed on too early, or
an adapter evicted under a sequence, gives wrong tokens.
"""

from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.worker_engine.fakes import VOCAB, Harness, adapter, expected_tokens
from worker.engine.config import EngineConfig
from worker.types import EngineRequest, FinishReason, SamplingParams

ADAPTERS = [None, None, adapter(1, 1), adapter(2, 2), adapter(3, 3), adapter(4, 5)]
GREEDY = SamplingParams(temperature=0.0)


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        num_pages=st.integers(6, 14),
        max_running=st.integers(2, 6),
        spare_tokens=st.integers(0, 10),
        max_waiting=st.integers(2, 12),
        max_skips=st.integers(0, 3),
        watermark=st.sampled_from([0.0, 0.1, 0.5]),
        prefetch_window=st.integers(0, 6),
        max_queued_pages=st.sampled_from([None, 1, 3]),
        overlap=st.booleans(),
        tick_s=st.sampled_from([0.0, 2e-9]),  # so that a step hides no page, or some
    )
    def start(
        self,
        num_pages: int,
        max_running: int,
        spare_tokens: int,
        max_waiting: int,
        max_skips: int,
        watermark: float,
        prefetch_window: int,
        max_queued_pages: int | None,
        overlap: bool,
        tick_s: float,
    ) -> None:
        self.config = EngineConfig(
            context_length=40,
            block_size=4,
            max_step_tokens=max_running + spare_tokens,
            max_running=max_running,
            max_waiting=max_waiting,
            max_skips=max_skips,
            watermark=watermark,
            prefetch_window=prefetch_window,
            overlap=overlap,
        )
        ticks = count()
        self.harness = Harness(self.config, num_pages, max_queued_pages, clock=lambda: tick_s * next(ticks))
        self.sent: dict[str, EngineRequest] = {}
        self.cancelled: set[str] = set()

    @rule(
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=14),
        resumed=st.lists(st.integers(0, VOCAB - 1), max_size=3),
        max_tokens=st.integers(4, 16),
        uses=st.sampled_from(ADAPTERS),
        priority=st.integers(-1, 1),
        stops=st.frozensets(st.integers(0, VOCAB - 1), max_size=2),
    )
    def arrive(self, prompt, resumed, max_tokens, uses, priority, stops) -> None:
        request = EngineRequest(
            f"r{len(self.sent)}",
            tuple(prompt),
            max_tokens,
            GREEDY,
            adapter=uses,
            resumed_token_ids=tuple(resumed),
            stop_token_ids=stops,
            priority=priority,
        )
        self.sent[request.request_id] = request
        self.harness.engine.add(request)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        name = data.draw(st.sampled_from(sorted(self.sent)))
        self.cancelled.add(name)
        self.harness.engine.cancel(name)
        assert name not in self.harness.engine._sequences

    @rule(num_steps=st.integers(1, 8))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.harness.step()

    @precondition(lambda self: self.sent)
    @rule()
    def drain(self) -> None:
        # Each step computes a token of the first running sequence, so even one by one, all end within this many.
        self.harness.run(max_steps=10 + len(self.sent) * 40)
        assert self.harness.pool.kv_pages == 0
        self.check_endings()

    def check_endings(self) -> None:
        for name, request in self.sent.items():
            (ending,) = self.harness.endings[name]
            tokens = self.harness.tokens.get(name, [])
            if isinstance(ending, str):
                assert tokens == []
                continue
            expected, reason = expected_tokens(request, self.config.context_length)
            if ending is FinishReason.CANCELLED:
                assert name in self.cancelled
                assert tokens == expected[: len(tokens)]
            else:
                assert (tokens, ending) == (expected, reason)

    @invariant()
    def bounds_are_kept(self) -> None:
        if not hasattr(self, "harness"):
            return
        scheduler = self.harness.engine._scheduler
        assert scheduler.num_running <= self.config.max_running
        # A preempted sequence goes back to wait whatever the bound, which is on arrivals.
        assert scheduler.num_waiting <= self.config.max_waiting + self.config.max_running
        assert all(s.num_passed <= self.config.max_skips for s in scheduler._waiting.head(100))
        held = [page for s in scheduler._running for page in s.pages]
        assert len(held) == len(set(held)) == self.harness.pool.kv_pages
        for sequence in scheduler._running:
            if sequence.adapter is not None:
                assert self.harness.residency.is_resident(sequence.adapter.digest)

    def teardown(self) -> None:
        if hasattr(self, "harness") and self.sent:
            self.drain()


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
