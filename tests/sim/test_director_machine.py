"""Any events in any order, right or wrong: the director keeps its promises and nothing makes it fail."""

import random
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from control_plane.core.demand import ReplicationSettings
from control_plane.core.director import Director
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.policy import AdmissionMode, AdmissionSettings, ClusteringSettings, DispatchSettings, Policy
from control_plane.core.types import (
    AdapterRef,
    BatchAcked,
    DrainChanged,
    Event,
    FinishReason,
    LeaseChanged,
    PolicyChanged,
    Request,
    RequestArrived,
    RequestCancelled,
    SequenceOutput,
    Tick,
    TokensProduced,
    WorkerFailure,
    WorkerLost,
    WorkerReported,
    WorkerStatus,
)
from tests.sim.placements import EVERYTHING, PROFILES
from tests.sim.witness import Witness, expected_token

NUMBERS = ("pending_prefill_tokens", "num_prefill_tokens", "free_pages", "kv_pages", "num_running", "num_output_tokens")
REQUEST_IDS = st.sampled_from([f"r{index}" for index in range(8)])
WORKER_IDS = st.sampled_from(["w0", "w1", "w2"])
DIGESTS = st.sampled_from([None, "a", "b", "c"])
POLICIES = st.builds(
    lambda mode, queued, adapters, attempts, delay, placement, moves: Policy(
        "drawn",
        placement=placement,
        replication=ReplicationSettings(worker_requests_per_s=0.05, interval_s=0.1, max_moves=moves),
        admission=AdmissionSettings(mode=mode, max_queued=queued, max_queued_per_tenant=3, no_worker_grace_s=5.0),
        clustering=ClusteringSettings(max_adapters_per_worker=adapters, max_run=2),
        dispatch=DispatchSettings(max_attempts=attempts, retry_delay_s=delay, lookahead=2, prefetch_depth=2),
    ),
    st.sampled_from(AdmissionMode),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([PlacementPolicy(), EVERYTHING, PROFILES]),
    st.integers(0, 2),
)


class DirectorMachine(RuleBasedStateMachine):
    @initialize(policy=POLICIES)
    def make(self, policy: Policy) -> None:
        self.director = Director(policy, random.Random(0))
        self.witness = Witness()
        self.now = 0.0

    def deliver(self, event: Event) -> None:
        effects = self.director.on_event(event, self.now)
        self.witness.see(event, effects, self.now)
        shown = self.director.snapshot()
        assert shown.num_dispatched == sum(len(held) for held in self.witness.held.values())

    @rule(
        request_id=REQUEST_IDS,
        digest=DIGESTS,
        deadline_s=st.sampled_from([0.0, 1.0, float("inf")]),
        priority=st.integers(0, 1),
        tenant=st.sampled_from(["t", "u"]),
        size_bytes=st.sampled_from([10, 10**9]),
    )
    def arrive(
        self, request_id: str, digest: str | None, deadline_s: float, priority: int, tenant: str, size_bytes: int
    ) -> None:
        sight = self.witness.sights.get(request_id)
        is_held = any(request_id in held for held in self.witness.held.values())
        if (sight is not None and sight.end is None) or is_held:
            return
        adapter = AdapterRef(digest, digest, 8, size_bytes) if digest else None
        self.deliver(
            RequestArrived(Request(request_id, (1, 2), 3, deadline_s, adapter, priority=priority, tenant=tenant))
        )

    @rule(request_id=REQUEST_IDS)
    def cancel(self, request_id: str) -> None:
        self.deliver(RequestCancelled(request_id))

    @rule(worker_id=WORKER_IDS, window=st.integers(0, 3), tenants=st.sampled_from([(), (), ("t",)]))
    def report(self, worker_id: str, window: int, tenants: tuple[str, ...]) -> None:
        status = WorkerStatus(worker_id, "base", window, total_pages=10, page_size_bytes=10, tenants=tenants)
        self.deliver(WorkerReported(status))

    @rule(worker_id=WORKER_IDS)
    def lose(self, worker_id: str) -> None:
        self.deliver(WorkerLost(worker_id))

    @rule(worker_id=WORKER_IDS, is_live=st.booleans())
    def lease(self, worker_id: str, is_live: bool) -> None:
        self.deliver(LeaseChanged(worker_id, is_live))

    @rule(worker_id=WORKER_IDS, is_draining=st.booleans())
    def drain(self, worker_id: str, is_draining: bool) -> None:
        self.deliver(DrainChanged(worker_id, is_draining))

    @rule(worker_id=WORKER_IDS, accepted=st.sets(REQUEST_IDS, max_size=3), data=st.data())
    def ack(self, worker_id: str, accepted: set[str], data: st.DataObject) -> None:
        rejected = data.draw(st.sets(REQUEST_IDS, max_size=2)) - accepted
        failures = tuple(self.failure(each, data.draw(st.booleans())) for each in sorted(rejected))
        self.deliver(BatchAcked(worker_id, tuple(sorted(accepted)), failures))

    @rule(worker_id=WORKER_IDS, request_id=REQUEST_IDS, data=st.data())
    def produce(self, worker_id: str, request_id: str, data: st.DataObject) -> None:
        sight = self.witness.sights.get(request_id)
        first = sight.num_tokens if sight else 0
        count = data.draw(st.integers(0, max(0, 3 - first)))
        reason = data.draw(st.sampled_from([None, FinishReason.STOP, FinishReason.CANCELLED]))
        token_ids = tuple(expected_token(request_id, first + index) for index in range(count))
        self.deliver(TokensProduced(worker_id, (SequenceOutput(request_id, token_ids, "", finish_reason=reason),)))

    @rule(worker_id=WORKER_IDS, request_id=REQUEST_IDS, retryable=st.booleans())
    def fail(self, worker_id: str, request_id: str, retryable: bool) -> None:
        self.deliver(TokensProduced(worker_id, failures=(self.failure(request_id, retryable),)))

    @rule(policy=POLICIES)
    def change_policy(self, policy: Policy) -> None:
        self.deliver(PolicyChanged(policy))

    @rule(worker_id=WORKER_IDS, field=st.sampled_from(NUMBERS), value=st.sampled_from([-5, 1 << 70]))
    def report_nonsense(self, worker_id: str, field: str, value: int) -> None:
        status = WorkerStatus(worker_id, "base", 1, total_pages=10, page_size_bytes=10, step_ms=float("nan"))
        before = self.director.snapshot().num_faulty_reports
        self.deliver(WorkerReported(replace(status, **{field: value})))
        assert self.director.snapshot().num_faulty_reports == before + 1

    # A clock that goes back counts as one that stands still, and one that jumps ends what waited too long.
    @rule(elapsed=st.sampled_from([0.1, 1.0, 6.0, -50.0, 1e6]))
    def tick(self, elapsed: float) -> None:
        self.now += elapsed
        self.deliver(Tick())

    def teardown(self) -> None:
        """Whatever state it is in: once the workers are gone for good, everything ends."""
        if not hasattr(self, "director"):
            return
        for worker_id in ("w0", "w1", "w2"):
            self.deliver(WorkerLost(worker_id))
        self.now += 1e9
        for _ in range(3):
            self.tick(6.0)
        self.witness.assert_all_ended()
        assert self.director.snapshot().num_queued == 0

    @staticmethod
    def failure(request_id: str, retryable: bool) -> WorkerFailure:
        return WorkerFailure(request_id, 14, "DRAWN", "drawn", retryable=retryable)


TestDirector = DirectorMachine.TestCase
TestDirector.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
