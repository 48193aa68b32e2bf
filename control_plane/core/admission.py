"""Which requests may wait: bounded queues, and deadlines that can still be met."""

import heapq
import math
from collections.abc import Iterable

from control_plane.core.errors import DuplicateRequest, QueueFull, RequestError, SloUnreachable
from control_plane.core.estimators import Ewma, PlaceTime
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.ledger import Ledger, RequestState, TrackedRequest
from control_plane.core.policy import AdmissionMode, AdmissionSettings
from control_plane.core.queue import WaitingQueue
from control_plane.core.types import Request

# Deadlines of requests that ended are kept up to this many, and as many as requests are in flight.
_DEADLINE_SLACK = 1024


class Admission:
    """Judges arrivals, and finds the waiting requests whose first token would come too late."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self.settings = settings
        self._place_time = PlaceTime()
        self._first_token_time = Ewma()
        # (latest moment at which the request must be dispatched, number, id); removed requests stay until they surface.
        self._deadlines: list[tuple[float, int, str]] = []

    def deadline_s(self, request: Request) -> float:
        """The request's first-token deadline; infinity for none."""
        return request.first_token_deadline_s or self.settings.default_first_token_deadline_s or math.inf

    def refusal(self, request: Request, ledger: Ledger, queue: WaitingQueue, fleet: Fleet) -> RequestError | None:
        """Why a request may not wait; None if it may."""
        if ledger.get(request.request_id) is not None:
            return DuplicateRequest(
                f"request {request.request_id} is in flight: use another request_id",
                metadata={"field": "request_id", "request_id": request.request_id},
            )
        return self._queue_full(request, queue, fleet) or self._slo_unreachable(request, queue, fleet)

    def watch(self, tracked: TrackedRequest, fleet: Fleet) -> None:
        """Watch the deadline of a request that begins to wait, if it still has to produce its first token."""
        if self._is_watched(tracked):
            latest = tracked.deadline_at - self._first_token_s(tracked.num_prefill_tokens, fleet.accepting_workers)
            heapq.heappush(self._deadlines, (latest, tracked.number, tracked.request_id))

    def overdue(self, ledger: Ledger, now: float) -> list[TrackedRequest]:
        """The waiting requests whose deadline cannot be met any more; none is watched any longer."""
        if len(self._deadlines) > 2 * len(ledger) + _DEADLINE_SLACK:
            self._deadlines = [each for each in self._deadlines if _is_open(ledger.get(each[2]), each[1])]
            heapq.heapify(self._deadlines)
        # One that waited several times is in the heap several times.
        found: dict[str, TrackedRequest] = {}
        while self._deadlines and self._deadlines[0][0] < now:
            _, number, request_id = heapq.heappop(self._deadlines)
            tracked = ledger.get(request_id)
            if tracked is None or not _is_open(tracked, number) or not self._is_watched(tracked):
                continue
            if tracked.state is RequestState.QUEUED:
                found[request_id] = tracked
        return list(found.values())

    def expired(self, tracked: TrackedRequest, now: float) -> SloUnreachable:
        """The error of a request found overdue."""
        deadline_s = tracked.deadline_at - tracked.arrived_at
        return SloUnreachable(
            f"the first token, due {deadline_s:g} s after arrival, cannot come in time: no worker was free for "
            f"{now - tracked.arrived_at:.3g} s; try again later, or allow more time",
            metadata={"field": "service_level.first_token_deadline_ms"},
        )

    def first_token(self, tracked: TrackedRequest, now: float) -> None:
        """A request's first token came: measure the time since its dispatch."""
        self._first_token_time.add(now - tracked.sent_at, self.settings.smoothing)

    def released(self, tracked: TrackedRequest, now: float) -> None:
        """A request's place on a worker was freed: measure."""
        self._place_time.add(now - tracked.sent_at, self.settings.smoothing)

    def _is_watched(self, tracked: TrackedRequest) -> bool:
        is_early_abort = self.settings.mode is AdmissionMode.EARLY_ABORT
        return is_early_abort and tracked.first_token_at is None and tracked.deadline_at < math.inf

    def _first_token_s(self, num_tokens: int, workers: Iterable[Worker]) -> float:
        """Expected time from dispatch to first token while workers are full."""
        own_s = min((worker.prefill_s(num_tokens) for worker in workers), default=0.0)
        return max(own_s, self._first_token_time.value or 0.0)

    def _queue_full(self, request: Request, queue: WaitingQueue, fleet: Fleet) -> QueueFull | None:
        num_of_tenant = queue.num_of_tenant(request.tenant)
        if len(queue) >= self.settings.max_queued:
            bound, num_queued, whose = "max_queued", len(queue), "all tenants"
        elif num_of_tenant >= self.settings.max_queued_per_tenant:
            bound, num_queued, whose = "max_queued_per_tenant", num_of_tenant, f"tenant {request.tenant}"
        else:
            return None
        return QueueFull(
            f"{num_queued} requests of {whose} wait already: try again later, or raise admission.{bound}",
            metadata={"limit": bound, "queued": str(num_queued)},
            retry_after_s=self._retry_delay_s(len(queue), fleet),
        )

    def _slo_unreachable(self, request: Request, queue: WaitingQueue, fleet: Fleet) -> SloUnreachable | None:
        deadline_s = self.deadline_s(request)
        if self.settings.mode is not AdmissionMode.EARLY_ABORT or math.isinf(deadline_s):
            return None
        workers = fleet.accepting_workers
        # An idle worker takes anything: that is how rates are measured again once load and estimates part.
        if not workers or any(not worker.in_flight for worker in workers):
            return None
        wait_s = self._wait_s(queue.num_ahead(request.priority), workers)
        num_tokens = len(request.prompt_token_ids)
        expected_s = wait_s + self._first_token_s(num_tokens, workers) if wait_s else _prefill_s(num_tokens, workers)
        if expected_s <= deadline_s:
            return None
        return SloUnreachable(
            f"the first token is expected after {expected_s:.3g} s, later than the {deadline_s:g} s asked for: "
            "try again later, or allow more time",
            metadata={"field": "service_level.first_token_deadline_ms", "expected_ms": f"{expected_s * 1000:.0f}"},
            retry_after_s=self._clamped(expected_s - deadline_s),
        )

    def _wait_s(self, num_ahead: int, workers: Iterable[Worker]) -> float:
        """Expected wait for a place, behind so many requests."""
        total, free = 0, 0
        for worker in workers:
            total += worker.window
            free += worker.num_free_places
        return self._place_time.wait_s(max(0, num_ahead + 1 - free), total)

    def _retry_delay_s(self, num_queued: int, fleet: Fleet) -> float:
        """When about half of the queue will have been served."""
        wait_s = self._wait_s(num_queued // 2, fleet.accepting_workers)
        return self._clamped(wait_s or self.settings.default_retry_delay_s)

    def _clamped(self, delay_s: float) -> float:
        return min(max(delay_s, 0.01), self.settings.max_retry_delay_s)


def _prefill_s(num_tokens: int, workers: Iterable[Worker]) -> float:
    """Least expected time for a prompt behind the prompts that are there; 0 where a rate was not measured."""
    return min((worker.prefill_s(worker.pending_prefill_tokens + num_tokens) for worker in workers), default=0.0)


def _is_open(tracked: TrackedRequest | None, number: int) -> bool:
    """Whether the request is the one that arrived with this number, and has not ended."""
    return tracked is not None and tracked.number == number and tracked.state is not RequestState.ENDED
