"""A fleet in virtual time, driven by one seed: the director, simulated workers, clients and faults."""

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from control_plane.core.director import Director
from control_plane.core.policy import Policy
from control_plane.core.types import (
    AdapterRef,
    BatchAcked,
    DrainChanged,
    Effect,
    Event,
    LeaseChanged,
    PolicyChanged,
    Request,
    RequestArrived,
    RequestCancelled,
    SendBatch,
    SendCancel,
    Tick,
    TokensProduced,
    WorkerLost,
)
from tests.sim.simulated_worker import SimulatedWorker, WorkerModel
from tests.sim.transcript import describe, name_event
from tests.sim.witness import Witness


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens; everything by chance is drawn from the seed."""

    num_requests: int = 500
    requests_per_s: float = 100.0
    num_workers: int = 4
    num_adapters: int = 32
    num_tenants: int = 3
    base_share: float = 0.1
    priorities: tuple[int, ...] = (0, 0, 0, 1)
    prompt_tokens: tuple[int, int] = (4, 64)
    output_tokens: tuple[int, int] = (1, 24)
    first_token_deadline_s: float = 0.0
    model: WorkerModel = field(default_factory=WorkerModel)
    cancel_share: float = 0.0
    losses: int = 0
    loss_s: float = 1.0
    lease_faults: int = 0
    drains: int = 0
    late_message_share: float = 0.0
    policy_changes: tuple[Policy, ...] = ()
    tick_s: float = 0.05
    status_s: float = 0.1


class SimulationFailure(AssertionError):
    """A promise was broken; the message holds the seed that repeats it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: what was seen, and a digest of every event and effect."""

    witness: Witness
    transcript: str
    num_events: int

    @property
    def attainment(self) -> float:
        """Share of all requests whose first token came in time."""
        sights = self.witness.sights.values()
        met = [
            sight
            for sight in sights
            if sight.first_token_at is not None
            and sight.first_token_at - sight.arrived_at <= (sight.request.first_token_deadline_s or float("inf"))
        ]
        return len(met) / len(sights)


class Simulation:
    """Runs one scenario; the same seed gives the same transcript."""

    def __init__(
        self, scenario: Scenario, policy: Policy, seed: int, show: Callable[[str], None] | None = None
    ) -> None:
        self._scenario = scenario
        self._show = show
        self._seed = seed
        self._rng = random.Random(seed)
        self._director = Director(policy, random.Random(seed + 1))
        self._witness = Witness()
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._num_planned = 0
        self._num_events = 0
        self._digest = hashlib.sha256()
        self._workers: dict[str, SimulatedWorker] = {}
        self._num_arrived = 0

    def run(self) -> Outcome:
        """Run to the end, when every request ended and every worker is idle."""
        try:
            self._plan()
            while self._agenda:
                self._now, _, action = heapq.heappop(self._agenda)
                action()
            self._witness.assert_all_ended()
            assert self._director.snapshot().num_queued == 0
            assert self._director.snapshot().num_dispatched == 0
        except AssertionError as error:
            raise SimulationFailure(f"seed {self._seed}, at {self._now:.3f} s: {error}") from error
        return Outcome(self._witness, self._digest.hexdigest(), self._num_events)

    def _plan(self) -> None:
        scenario = self._scenario
        for index in range(scenario.num_workers):
            self._later(self._rng.random() * 0.1, lambda name=f"worker-{index:03}": self._start_worker(name))
        at = 0.0
        for index in range(scenario.num_requests):
            at += self._rng.expovariate(scenario.requests_per_s)
            request = self._request(index)
            self._later(at, lambda request=request: self._arrive(request))
            if self._rng.random() < scenario.cancel_share:
                cancel_at = at + self._rng.random() * 2.0
                self._later(cancel_at, lambda id_=request.request_id: self._deliver(RequestCancelled(id_)))
        for _ in range(scenario.losses):
            self._later(self._rng.random() * at, self._lose_some_worker)
        for _ in range(scenario.lease_faults):
            self._later(self._rng.random() * at, self._suspend_some_lease)
        for _ in range(scenario.drains):
            self._later(self._rng.random() * at, self._drain_some_worker)
        for policy in scenario.policy_changes:
            self._later(self._rng.random() * at, lambda policy=policy: self._deliver(PolicyChanged(policy)))
        self._later(scenario.tick_s, self._tick)

    def _request(self, index: int) -> Request:
        scenario, rng = self._scenario, self._rng
        # The k-th adapter is asked for in proportion to 1/k.
        rank = int(scenario.num_adapters ** rng.random())
        digest = f"sha256:{rank:064x}"
        adapter = AdapterRef(f"team/adapter-{rank}", digest, rank=2 << rank % 6, size_bytes=100_000)
        return Request(
            request_id=f"request-{index:05}",
            prompt_token_ids=tuple(range(rng.randint(*scenario.prompt_tokens))),
            max_tokens=rng.randint(*scenario.output_tokens),
            first_token_deadline_s=scenario.first_token_deadline_s,
            adapter=None if rng.random() < scenario.base_share else adapter,
            priority=rng.choice(scenario.priorities),
            tenant=f"tenant-{rng.randrange(scenario.num_tenants)}",
        )

    def _arrive(self, request: Request) -> None:
        self._num_arrived += 1
        self._deliver(RequestArrived(request))

    def _start_worker(self, worker_id: str) -> None:
        worker = SimulatedWorker(worker_id, self._scenario.model, self._rng, self._later, self._from_worker)
        self._workers[worker_id] = worker
        worker.attach()
        self._later(self._scenario.status_s, lambda: self._report(worker))

    def _report(self, worker: SimulatedWorker) -> None:
        if worker.is_up and self._is_busy:
            worker.report()
            self._later(self._scenario.status_s, lambda: self._report(worker))

    def _lose_some_worker(self) -> None:
        up = sorted(worker_id for worker_id, worker in self._workers.items() if worker.is_up)
        if not up:
            return
        worker = self._workers[self._rng.choice(up)]
        worker.is_up = False
        self._deliver(WorkerLost(worker.worker_id))
        self._later(self._rng.random() * self._scenario.loss_s, lambda: self._start_worker(worker.worker_id))

    def _suspend_some_lease(self) -> None:
        worker_id = self._rng.choice(sorted(self._workers)) if self._workers else "worker-000"
        self._deliver(LeaseChanged(worker_id, is_live=False))
        self._later(self._rng.random(), lambda: self._deliver(LeaseChanged(worker_id, is_live=True)))

    def _drain_some_worker(self) -> None:
        worker_id = self._rng.choice(sorted(self._workers)) if self._workers else "worker-000"
        self._deliver(DrainChanged(worker_id, is_draining=True))
        self._later(self._rng.random(), lambda: self._deliver(DrainChanged(worker_id, is_draining=False)))

    def _from_worker(self, worker: SimulatedWorker, event: Event) -> None:
        """What a worker sent arrives. After its loss it is dropped, or comes late while the worker is away."""
        is_late = not worker.is_up
        if is_late and worker is not self._workers[worker.worker_id]:
            return
        if is_late and not (
            isinstance(event, TokensProduced | BatchAcked) and self._rng.random() < self._scenario.late_message_share
        ):
            return
        self._deliver(event)

    def _tick(self) -> None:
        self._deliver(Tick())
        if self._is_busy:
            self._later(self._scenario.tick_s, self._tick)

    @property
    def _is_busy(self) -> bool:
        snapshot = self._director.snapshot()
        is_expecting = self._num_arrived < self._scenario.num_requests
        return is_expecting or snapshot.num_queued > 0 or snapshot.num_dispatched > 0

    def _deliver(self, event: Event) -> None:
        self._num_events += 1
        effects = self._director.on_event(event, self._now)
        lines = [f"{self._now:.9f} {name_event(event)}", *map(describe, effects)]
        self._digest.update("\n".join(lines).encode())
        if self._show is not None:
            self._show("\n    ".join(lines))
        self._witness.see(event, effects, self._now)
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, SendBatch):
            self._workers[effect.worker_id].take(effect)
        elif isinstance(effect, SendCancel):
            self._workers[effect.worker_id].cancel(effect.request_id)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._num_planned += 1
        heapq.heappush(self._agenda, (self._now + delay_s, self._num_planned, action))
