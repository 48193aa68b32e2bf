"""One policy on one trace, from the first arrival to the last end, in virtual time."""

import heapq
import math
import random
import zlib
from collections.abc import Callable

from control_plane.core.director import Director
from control_plane.core.policy import Policy
from control_plane.core.types import (
    AdapterRef,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    Request,
    RequestArrived,
    SendBatch,
    Tick,
    WorkerLost,
)
from control_plane.simulation.could_start import CouldStart, with_filter
from control_plane.simulation.machine import Machine
from control_plane.simulation.outcome import Fate, Outcome, Quantiles, errors_of, jain, tenant_outcomes
from control_plane.simulation.service import FleetModel
from control_plane.simulation.trace import Trace, TraceRequest

_TICK_S = 0.05


class Run:
    """Plays a trace; the same seed gives the same outcome."""

    def __init__(self, trace: Trace, policy: Policy, fleet: FleetModel, seed: int) -> None:
        self._trace = trace
        self._policy = policy
        self._fleet = fleet
        self._machines: dict[str, Machine] = {}
        self._rng = random.Random(seed)  # noqa: S311
        if not fleet.service.window:
            policy = with_filter(policy, CouldStart(self._machines))
        self._director = Director(policy, random.Random(seed + 1))  # noqa: S311
        self._now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._num_planned = 0
        self._num_events = 0
        self._digest = 0
        self._past: list[Machine] = []
        self._requests: dict[str, TraceRequest] = {}
        self._arrived_at: dict[str, float] = {}
        self._fates: dict[str, Fate] = {}
        self._num_open = 0
        self._ended_at = 0.0
        self._next = 0
        self._front_end_free_at = 0.0

    def play(self) -> Outcome:
        """Runs to the end, when every request ended."""
        for index in range(self._fleet.num_workers):
            self._start(f"worker-{index:04}")
        self._plan_losses()
        self._later(0.0, self._tick)
        self._plan_arrival()
        while self._agenda:
            self._now, _, action = heapq.heappop(self._agenda)
            action()
        assert not self._num_open, "requests were left open"
        return self._outcome()

    @property
    def _is_over(self) -> bool:
        return self._next >= len(self._trace.requests) and not self._num_open

    def _plan_arrival(self) -> None:
        if self._next < len(self._trace.requests):
            self._at(self._trace.requests[self._next].at_s, self._arrive)

    def _arrive(self) -> None:
        found = self._trace.requests[self._next]
        request_id = f"r{self._next:06}"
        self._next += 1
        self._num_open += 1
        self._requests[request_id] = found
        self._arrived_at[request_id] = self._now
        deadline_s = found.first_token_deadline_s or self._policy.admission.default_first_token_deadline_s or math.inf
        self._fates[request_id] = Fate(found.tenant, deadline_s, found.prompt_tokens)
        self._plan_arrival()
        arrived = RequestArrived(_request(request_id, found))
        if not self._fleet.front_end_s:
            self._deliver(arrived)
            return
        self._front_end_free_at = max(self._now, self._front_end_free_at) + self._fleet.front_end_s
        self._at(self._front_end_free_at, lambda: self._deliver(arrived))

    def _plan_losses(self) -> None:
        end_s = self._trace.requests[-1].at_s
        for _ in range(self._fleet.losses):
            self._at(self._rng.random() * end_s, self._lose_some_worker)

    def _lose_some_worker(self) -> None:
        up = sorted(worker_id for worker_id, machine in self._machines.items() if machine.is_up)
        if not up:
            return
        machine = self._machines[self._rng.choice(up)]
        machine.is_up = False
        self._past.append(machine)
        self._deliver(WorkerLost(machine.worker_id))
        self._later(self._fleet.loss_s, lambda: self._start(machine.worker_id))

    def _start(self, worker_id: str) -> None:
        machine = Machine(
            worker_id,
            self._fleet.service,
            self._fleet.traits_of(int(worker_id.rpartition("-")[2])),
            lambda request_id: self._requests[request_id].output_tokens,
            self._later,
            lambda event: self._from(machine, event),
            lambda: self._now,
        )
        self._machines[worker_id] = machine
        machine.attach()
        # Reports are spread over their interval, as those of independent processes are.
        self._later(self._rng.random() * self._fleet.status_s, lambda: self._report(machine))

    def _report(self, machine: Machine) -> None:
        if machine.is_up and not self._is_over:
            machine.report()
            self._later(self._fleet.status_s, lambda: self._report(machine))

    def _tick(self) -> None:
        self._deliver(Tick())
        if not self._is_over:
            self._later(_TICK_S, self._tick)

    def _from(self, machine: Machine, event: Event) -> None:
        if not self._fleet.latency_s:
            self._deliver(event)
            return
        self._later(self._fleet.latency_s, lambda: self._deliver(event) if machine.is_up else None)

    def _deliver(self, event: Event) -> None:
        self._num_events += 1
        effects = self._director.on_event(event, self._now)
        self._digest = zlib.crc32(f"{self._now:.9f} {type(event).__name__}".encode(), self._digest)
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Emitted(output):
                fate = self._fates[output.request_id]
                fate.output_tokens += len(output.token_ids)
                if fate.first_token_s is None:
                    fate.first_token_s = self._now - self._arrived_at[output.request_id]
            case SendBatch(worker_id):
                self._digest = zlib.crc32(f"{worker_id} {_ids(effect)}".encode(), self._digest)
                self._send(worker_id, effect)
            case Finished(request_id):
                self._fates[request_id].finished_s = self._now - self._arrived_at[request_id]
                self._end()
            case Failed(request_id, error):
                self._digest = zlib.crc32(f"{request_id} {error.reason}".encode(), self._digest)
                self._fates[request_id].error = error.reason
                self._end()
            case _:
                pass

    def _end(self) -> None:
        self._num_open -= 1
        self._ended_at = self._now

    def _send(self, worker_id: str, batch: SendBatch) -> None:
        machine = self._machines[worker_id]
        if self._fleet.latency_s:
            self._later(self._fleet.latency_s, lambda: machine.take(batch))
        else:
            machine.take(batch)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._at(self._now + delay_s, action)

    def _at(self, at: float, action: Callable[[], None]) -> None:
        self._num_planned += 1
        heapq.heappush(self._agenda, (max(at, self._now), self._num_planned, action))

    def _outcome(self) -> Outcome:
        fates = tuple(self._fates.values())
        tenants = tenant_outcomes(fates)
        finished = [fate for fate in fates if fate.finished_s is not None]
        machines = [*self._machines.values(), *self._past]
        duration_s = max(self._ended_at - self._trace.requests[0].at_s, 1e-9)
        gaps = [
            (fate.finished_s - fate.first_token_s) / (fate.output_tokens - 1)
            for fate in finished
            if fate.finished_s is not None and fate.first_token_s is not None and fate.output_tokens > 1
        ]
        return Outcome(
            policy=self._policy.name,
            num_requests=len(fates),
            num_finished=len(finished),
            attainment=sum(fate.is_met for fate in fates) / len(fates),
            satisfaction=sum(fate.satisfaction for fate in fates) / len(fates),
            first_token=Quantiles.of(fate.first_token_s for fate in fates if fate.first_token_s is not None),
            time_per_output_token=Quantiles.of(gaps),
            duration_s=duration_s,
            output_tokens_per_s=sum(fate.output_tokens for fate in fates) / duration_s,
            requests_per_s=len(finished) / duration_s,
            errors=errors_of(fates),
            tenants=tenants,
            fairness=jain(tenant.attainment for tenant in tenants),
            adapter_loads=sum(machine.num_loads for machine in machines),
            adapter_fetches=sum(machine.num_fetches for machine in machines),
            load_balance=jain(machine.num_tokens for machine in self._machines.values()),
            predictor_error_s=self._director.snapshot().predictor.mean_absolute_error_s,
            num_events=self._num_events,
            transcript=f"{self._digest:08x}",
            fates=fates,
        )


def _request(request_id: str, found: TraceRequest) -> Request:
    adapter = None
    if found.adapter_id:
        adapter = AdapterRef(found.adapter_id, f"sha256:{found.adapter_id}", found.rank, found.size_bytes)
    return Request(
        request_id=request_id,
        prompt_token_ids=(0,) * found.prompt_tokens,
        max_tokens=found.max_tokens or found.output_tokens,
        first_token_deadline_s=found.first_token_deadline_s,
        adapter=adapter,
        priority=found.priority,
        tenant=found.tenant,
    )


def _ids(batch: SendBatch) -> str:
    return " ".join(dispatched.request.request_id for dispatched in batch.requests)
