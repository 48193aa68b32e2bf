"""Handing requests to workers, and taking them back."""

from control_plane.core.admission import Admission
from control_plane.core.errors import AttemptsExhausted, RequestError, WorkerRequestFailed
from control_plane.core.fairness import Fairness
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.ledger import Ledger, RequestState, TrackedRequest
from control_plane.core.policy import DispatchSettings
from control_plane.core.queue import WaitingQueue
from control_plane.core.shares import TenantShares
from control_plane.core.types import (
    AdapterRef,
    BatchAcked,
    DispatchedRequest,
    Effect,
    FinishReason,
    SendBatch,
    SendCancel,
    WorkerFailure,
)


class Dispatcher:
    """Moves requests between the queue and the workers' windows; an attempt that fails is made elsewhere."""

    def __init__(
        self,
        settings: DispatchSettings,
        *,
        queue: WaitingQueue,
        fleet: Fleet,
        ledger: Ledger,
        admission: Admission,
        shares: TenantShares,
    ) -> None:
        self.settings = settings
        self.queue = queue
        self.admission = admission
        self._fleet = fleet
        self._ledger = ledger
        self._shares = shares
        self._outbox: dict[str, list[TrackedRequest]] = {}
        self._hints: dict[str, list[AdapterRef]] = {}

    def assign(self, tracked: TrackedRequest, worker: Worker, fairness: Fairness, now: float) -> None:
        """Give a waiting request a place on a worker; `flush` sends it."""
        assert tracked.state is RequestState.QUEUED
        self.queue.remove(tracked)
        if tracked.dispatched_at is None:
            tracked.dispatched_at = now
            request = tracked.request
            fairness.charge(request.tenant, num_prompt_tokens=len(request.prompt_token_ids), num_output_tokens=0)
        tracked.state = RequestState.DISPATCHED
        tracked.worker_id = worker.worker_id
        tracked.sent_at = now
        tracked.num_resumed_tokens = len(tracked.output_token_ids)
        tracked.attempts += 1
        tracked.unplaceable_since = None
        self.admission.dispatched(tracked, worker, len(self.queue))
        tracked.share = worker.take(tracked)
        self._shares.take(tracked.request.tenant, tracked.share)
        self._outbox.setdefault(worker.worker_id, []).append(tracked)

    def hint(self, adapter: AdapterRef, worker: Worker) -> None:
        """Tell a worker of an adapter that it will soon need, unless it has it or knows."""
        if worker.hint(adapter, self.settings.max_hinted_adapters):
            self._hints.setdefault(worker.worker_id, []).append(adapter)

    def flush(self) -> list[Effect]:
        """The messages that send what was assigned and hinted, each batch grouped by adapter."""
        effects: list[Effect] = []
        for worker_id, requests in self._outbox.items():
            for batch in self._split(_grouped(requests)):
                sent = tuple(DispatchedRequest(each.request, tuple(each.output_token_ids), each.tier) for each in batch)
                effects.append(SendBatch(worker_id, sent, tuple(self._hints.pop(worker_id, ()))))
        effects += [SendBatch(worker_id, (), tuple(adapters)) for worker_id, adapters in self._hints.items()]
        self._outbox.clear()
        self._hints.clear()
        return effects

    def release(self, tracked: TrackedRequest) -> None:
        """Free the place that a request holds on its worker."""
        assert tracked.worker_id is not None
        worker = self._fleet.get(tracked.worker_id)
        assert worker is not None
        self._leave(worker, tracked)

    def cancel(self, tracked: TrackedRequest, now: float) -> list[Effect]:
        """End a request at its client's wish. Its place on a worker stays taken until the worker answers."""
        if tracked.state is RequestState.ENDED:
            return []
        effects: list[Effect] = []
        if tracked.worker_id is None:
            self.queue.remove(tracked)
        else:
            effects.append(SendCancel(tracked.worker_id, tracked.request_id))
        effects.append(self._ledger.finish(tracked, FinishReason.CANCELLED, now))
        if tracked.worker_id is None:
            self._ledger.forget(tracked)
        return effects

    def acked(self, event: BatchAcked, now: float) -> list[Effect]:
        """A worker took or refused requests."""
        worker = self._fleet.get(event.worker_id)
        if worker is None:
            return []
        for request_id in event.accepted_request_ids:
            tracked = worker.in_flight.get(request_id)
            if tracked is not None and tracked.state is RequestState.DISPATCHED:
                tracked.state = RequestState.RUNNING
        effects: list[Effect] = []
        for failure in event.rejected:
            effects += self.failed(worker, failure, now)
        return effects

    def failed(self, worker: Worker, failure: WorkerFailure, now: float) -> list[Effect]:
        """A worker refused or failed a request: try elsewhere if that can help."""
        tracked = worker.in_flight.get(failure.request_id)
        if tracked is None:
            return []
        self.release(tracked)
        error = WorkerRequestFailed(failure, metadata={"worker_id": worker.worker_id})
        if not failure.retryable and tracked.state is not RequestState.ENDED:
            return self._end(tracked, error)
        worker.note_failure(now)
        tracked.avoid |= {worker.worker_id}
        return self._again(tracked, error, now, delay_s=self.settings.retry_delay_s)

    def lost(self, worker: Worker, now: float) -> list[Effect]:
        """A worker is gone, and every request on it goes on elsewhere after the output that was seen."""
        effects: list[Effect] = []
        for tracked in list(worker.in_flight.values()):
            self._leave(worker, tracked)
            error = AttemptsExhausted(
                f"{tracked.attempts} workers were lost or failed as they ran the request: send it again",
                metadata={"attempts": str(tracked.attempts), "worker_id": worker.worker_id},
                retry_after_s=self.admission.settings.default_retry_delay_s,
            )
            effects += self._again(tracked, error, now, delay_s=0.0)
        return effects

    def _leave(self, worker: Worker, tracked: TrackedRequest) -> None:
        worker.release(tracked)
        tracked.worker_id = None
        self._shares.give_back(tracked.request.tenant, tracked.share)

    def _again(self, tracked: TrackedRequest, error: RequestError, now: float, *, delay_s: float) -> list[Effect]:
        """Put a request whose attempt failed back to the front of the queue, unless it is over."""
        if tracked.state is RequestState.ENDED:
            self._ledger.forget(tracked)
            return []
        if tracked.is_complete:
            finished = self._ledger.finish(tracked, FinishReason.LENGTH, now)
            self._ledger.forget(tracked)
            return [finished]
        if tracked.attempts >= self.settings.max_attempts:
            return self._end(tracked, error)
        tracked.state = RequestState.QUEUED
        tracked.is_requeued = True
        tracked.is_hinted = False
        tracked.not_before = now + delay_s
        self.queue.add(tracked)
        if delay_s > 0:
            self.queue.park(tracked)
        self.admission.watch(tracked, None, self._fleet)
        return []

    def _end(self, tracked: TrackedRequest, error: RequestError) -> list[Effect]:
        failed = self._ledger.fail(tracked, error)
        self._ledger.forget(tracked)
        return [failed]

    def _split(self, requests: list[TrackedRequest]) -> list[list[TrackedRequest]]:
        batches: list[list[TrackedRequest]] = []
        num_tokens = 0
        for tracked in requests:
            num_tokens += tracked.num_prefill_tokens
            if not batches or num_tokens > self.settings.max_batch_tokens:
                batches.append([])
                num_tokens = tracked.num_prefill_tokens
            batches[-1].append(tracked)
        return batches


def _grouped(requests: list[TrackedRequest]) -> list[TrackedRequest]:
    """The requests with those of one adapter together, in the order in which each adapter came first."""
    groups: dict[str | None, list[TrackedRequest]] = {}
    for tracked in requests:
        groups.setdefault(tracked.digest, []).append(tracked)
    return [tracked for group in groups.values() for tracked in group]
