"""The director: what happens goes in, what to do comes out."""

import math
from collections.abc import Callable
from typing import Any

from control_plane.core.admission import Admission
from control_plane.core.clustering import Clustering
from control_plane.core.columns import FleetColumns
from control_plane.core.dispatch import Dispatcher
from control_plane.core.errors import RequestError
from control_plane.core.fairness import fairness_of
from control_plane.core.fleet import Fleet
from control_plane.core.ledger import Ledger, RequestState, TrackedRequest
from control_plane.core.placement.explanation import Explanation
from control_plane.core.placement.plugin import PlacementRequest, Rng
from control_plane.core.placing import Placer
from control_plane.core.policy import AdmissionMode, Policy
from control_plane.core.queue import WaitingQueue
from control_plane.core.quotas import TokenQuotas
from control_plane.core.replication import Replicator
from control_plane.core.reports import in_range
from control_plane.core.shares import TenantShares
from control_plane.core.sharing import TenantSharing
from control_plane.core.snapshot import DirectorSnapshot, WorkerSnapshot, snapshot_of
from control_plane.core.types import (
    Accepted,
    BatchAcked,
    DrainChanged,
    Effect,
    Emitted,
    Event,
    Failed,
    FinishReason,
    LeaseChanged,
    PolicyChanged,
    Request,
    RequestArrived,
    RequestCancelled,
    SequenceOutput,
    TenantAmount,
    TenantTotalsRead,
    Tick,
    TokensProduced,
    WorkerFailure,
    WorkerLost,
    WorkerReported,
)


class Director:
    """Decides whether and where requests run. Pure: the same events, times and chance give the same effects.

    A request goes through admission, which lets it wait or refuses it; clustering, which says whose turn it is;
    placement, which says where; and dispatch, which sends it, and takes it back if its worker fails. Every event's
    effects are to be carried out in order.
    """

    def __init__(self, policy: Policy, rng: Rng) -> None:
        self._policy = policy
        self._fairness = fairness_of(policy.fairness)
        self._quotas = TokenQuotas(policy.fairness)
        self._sharing = TenantSharing(self._quotas)
        self._shares = TenantShares(policy.fairness)
        self._now = -math.inf
        self._num_faulty_reports = 0
        self._ledger = Ledger()
        self._fleet = Fleet(policy.dispatch.max_promised)
        self._queue = self._new_queue()
        self._admission = Admission(policy.admission, self._quotas, self._fleet.columns.predictor)
        self._clustering = Clustering(policy.clustering, self._queue)
        self._dispatcher = Dispatcher(
            policy.dispatch,
            queue=self._queue,
            fleet=self._fleet,
            ledger=self._ledger,
            admission=self._admission,
            shares=self._shares,
        )
        self._placer = Placer(policy, rng, fleet=self._fleet, dispatcher=self._dispatcher, fairness=self._fairness)
        self._fleet.columns.demand.settings = policy.replication
        self._replicator = Replicator(policy, fleet=self._fleet, dispatcher=self._dispatcher)
        # Whether something changed by which a waiting request might be placed.
        self._may_place = False
        self._handlers: dict[type, Callable[[Any, float], list[Effect]]] = {
            RequestArrived: self._on_request_arrived,
            RequestCancelled: self._on_request_cancelled,
            WorkerReported: self._on_worker_reported,
            WorkerLost: self._on_worker_lost,
            LeaseChanged: self._on_lease_changed,
            DrainChanged: self._on_drain_changed,
            BatchAcked: self._on_batch_acked,
            TokensProduced: self._on_tokens_produced,
            PolicyChanged: self._on_policy_changed,
            TenantTotalsRead: self._on_tenant_totals_read,
            Tick: self._on_tick,
        }

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def fleet_columns(self) -> FleetColumns:
        """What placement decides on; to be read, not changed."""
        return self._fleet.columns

    def on_event(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened; returns what to do, in order. A time before the last one's counts as that one.

        Admission is part of taking in an arrival. If the event may let waiting requests go, clustering names one after
        the other, placement finds each a worker, and dispatch sends what was placed.
        """
        now = self._now = max(now, self._now)
        effects = self._handlers[type(event)](event, now)
        if not self._may_place:
            return effects
        self._may_place = False
        effects += self._abort_overdue(now)
        self._queue.reorder(newest_first=self._admission.is_newest_first(self._queue, self._fleet, now))
        if not len(self._queue):
            self._admission.observe(self._queue, now)
            return effects + self._dispatcher.flush()
        self._placer.unpark(now)
        if self._shares.is_due(now):
            self._shares.refresh(self._fleet.num_accepting, now)
        misses = 0
        while misses < self._policy.dispatch.lookahead:
            candidate = self._clustering.next(self._fleet, now)
            if candidate is None:
                break
            misses += not self._placer.place(candidate, now)
        self._admission.observe(self._queue, now)
        self._placer.hint_next(now)
        return effects + self._dispatcher.flush()

    def explain(self, request: Request, rng: Rng, now: float) -> Explanation:
        """Where the policy would place a request now, of all attached workers, and why; changes nothing."""
        return self._policy.placement.explain(PlacementRequest(request, now=now), self._fleet.columns, rng)

    @property
    def worker_ids(self) -> list[str]:
        """The attached workers."""
        return sorted(worker.worker_id for worker in self._fleet)

    def worker(self, worker_id: str) -> WorkerSnapshot | None:
        """One worker, if it is attached."""
        worker = self._fleet.get(worker_id)
        return snapshot_of(worker, with_residency=True) if worker is not None else None

    def snapshot(self, *, with_residency: bool = True) -> DirectorSnapshot:
        """The state to show; without residency it costs little however many adapters there are."""
        workers = tuple(
            snapshot_of(worker, with_residency=with_residency)
            for worker in sorted(self._fleet, key=lambda worker: worker.worker_id)
        )
        num_dispatched = sum(worker.num_in_flight for worker in workers)
        counters = self._fairness.counters
        return DirectorSnapshot(
            num_queued=len(self._queue),
            num_parked=self._queue.num_parked,
            num_dispatched=num_dispatched,
            workers=workers,
            predictor=self._admission.predictor,
            requests_per_s=self._admission.requests_per_s,
            counters=tuple(TenantAmount(tenant, counters[tenant]) for tenant in sorted(counters)),
            num_faulty_reports=self._num_faulty_reports,
        )

    def _on_request_arrived(self, event: RequestArrived, now: float) -> list[Effect]:
        request = event.request
        self._fleet.note_time(now)
        judged = self._admission.judge(request, self._ledger, self._queue, self._fleet, now)
        if isinstance(judged, RequestError):
            return [Failed(request.request_id, judged)]
        tracked = self._ledger.open(request, now, self._admission.deadline_s(request))
        self._admission.watch(tracked, judged, self._fleet)
        self._queue.add(tracked)
        self._shares.seen(request.tenant, now)
        self._fleet.columns.demand.note(request, now)
        self._quotas.use(request.tenant, len(request.prompt_token_ids), now)
        self._may_place = True
        effects: list[Effect] = [Accepted(request.request_id)]
        displaced = self._admission.displaced(self._queue)
        return [*effects, self._abort(*displaced)] if displaced is not None else effects

    def _on_request_cancelled(self, event: RequestCancelled, now: float) -> list[Effect]:
        tracked = self._ledger.get(event.request_id)
        return self._dispatcher.cancel(tracked, now) if tracked is not None else []

    def _on_worker_reported(self, event: WorkerReported, now: float) -> list[Effect]:
        status = in_range(event.status)
        self._num_faulty_reports += status is not event.status
        self._fleet.report(status, now, self._policy.admission.smoothing)
        self._may_place = True
        return []

    def _on_worker_lost(self, event: WorkerLost, now: float) -> list[Effect]:
        worker = self._fleet.remove(event.worker_id, now)
        self._may_place = True
        return self._dispatcher.lost(worker, now) if worker is not None else []

    def _on_lease_changed(self, event: LeaseChanged, now: float) -> list[Effect]:
        self._fleet.set_lease(event.worker_id, is_live=event.is_live, now=now)
        self._may_place = True
        return []

    def _on_drain_changed(self, event: DrainChanged, now: float) -> list[Effect]:
        self._fleet.set_drain(event.worker_id, is_draining=event.is_draining, now=now)
        if event.is_draining:
            self._replicator.drained(event.worker_id, now)
        self._may_place = True
        return []

    def _on_batch_acked(self, event: BatchAcked, now: float) -> list[Effect]:
        self._may_place = True
        return self._dispatcher.acked(event, now)

    def _on_tokens_produced(self, event: TokensProduced, now: float) -> list[Effect]:
        worker = self._fleet.get(event.worker_id)
        if worker is None:
            return []
        effects: list[Effect] = []
        in_flight = worker.in_flight
        for output in event.outputs:
            tracked = in_flight.get(output.request_id)
            if tracked is None:
                continue
            if output.token_ids and tracked.is_prefilling:
                worker.prefilled(tracked)
                self._admission.first_token(tracked, now)
            if tracked.state is not RequestState.ENDED:
                self._emit(tracked, output, now, effects)
            if output.token_ids:
                self._charge(tracked.request.tenant, len(output.token_ids), now)
            if output.finish_reason is not None:
                effects += self._on_last_output(tracked, output.finish_reason, now)
        for failure in event.failures:
            self._may_place = True
            effects += self._dispatcher.failed(worker, failure, now)
        return effects

    def _on_policy_changed(self, event: PolicyChanged, now: float) -> list[Effect]:
        del now
        policy, before = event.policy, self._policy
        self._policy = policy
        self._admission.settings = policy.admission
        self._dispatcher.settings = policy.dispatch
        self._fleet.set_max_promised(policy.dispatch.max_promised)
        self._placer.policy = policy
        self._replicator.policy = policy
        self._fleet.columns.demand.settings = policy.replication
        self._quotas.settings = policy.fairness
        self._fairness.settings = self._shares.settings = policy.fairness
        if policy.fairness.scheme is not before.fairness.scheme:
            self._fairness = self._placer.fairness = fairness_of(policy.fairness)
            waiting, self._queue = list(self._queue), self._new_queue()
            self._dispatcher.queue = self._queue
            for tracked in waiting:
                self._queue.add(tracked)
        if policy.admission != before.admission:
            self._admission.reassess(self._queue, self._fleet)
        self._clustering = Clustering(policy.clustering, self._queue)
        self._may_place = True
        return []

    def _on_tenant_totals_read(self, event: TenantTotalsRead, now: float) -> list[Effect]:
        self._sharing.read(event, self._fairness, now)
        self._may_place = True
        return []

    def _on_tick(self, event: Tick, now: float) -> list[Effect]:
        del event
        self._fleet.note_time(now)
        effects = self._abort_overdue(now)
        self._replicator.run(now)
        without_worker = self._placer.without_worker(now)
        effects += [self._abort(each, self._placer.no_worker(each, now)) for each in without_worker]
        charged = self._sharing.charged(self._fairness)
        if charged is not None:
            effects.append(charged)
        self._may_place = True
        return effects

    def _abort_overdue(self, now: float) -> list[Effect]:
        overdue = self._admission.overdue(self._ledger, self._fleet, now)
        return [self._abort(each, self._expired(each, now)) for each in overdue]

    def _expired(self, tracked: TrackedRequest, now: float) -> RequestError:
        """Why an overdue request was not placed in time."""
        if tracked.unplaceable_since is not None:
            return self._placer.no_worker(tracked, now)
        return self._admission.expired(tracked, now)

    def _charge(self, tenant: str, num_output_tokens: int, now: float) -> None:
        self._fairness.charge(tenant, num_prompt_tokens=0, num_output_tokens=num_output_tokens)
        self._quotas.use(tenant, num_output_tokens, now)

    def _emit(self, tracked: TrackedRequest, output: SequenceOutput, now: float, effects: list[Effect]) -> None:
        if output.token_ids:
            tracked.output_token_ids += output.token_ids
            if tracked.first_token_at is None:
                tracked.first_token_at = now
            tracked.state = RequestState.RUNNING
        if output.token_ids or output.text:
            effects.append(Emitted(output))

    def _on_last_output(self, tracked: TrackedRequest, reason: FinishReason, now: float) -> list[Effect]:
        self._may_place = True
        request_id, worker_id = tracked.request_id, tracked.worker_id
        assert worker_id is not None
        if tracked.state is not RequestState.ENDED and reason is FinishReason.CANCELLED:
            # Nobody asked for it: the worker is going away.
            worker = self._fleet.get(worker_id)
            assert worker is not None
            message = f"worker {worker_id} stopped the request"
            failure = WorkerFailure(request_id, code=14, reason="WORKER_STOPPED", message=message, retryable=True)
            return self._dispatcher.failed(worker, failure, now)
        self._dispatcher.release(tracked)
        effects: list[Effect] = []
        if tracked.state is not RequestState.ENDED:
            self._admission.finished(tracked, now)
            effects.append(self._ledger.finish(tracked, reason, now))
        self._ledger.forget(tracked)
        return effects

    def _abort(self, tracked: TrackedRequest, error: RequestError) -> Failed:
        self._queue.remove(tracked)
        failed = self._ledger.fail(tracked, error)
        self._ledger.forget(tracked)
        return failed

    def _new_queue(self) -> WaitingQueue:
        is_newest_first = self._policy.admission.mode is AdmissionMode.LCFS
        return WaitingQueue(self._fairness, self._shares, newest_first=is_newest_first)
