"""Which requests may wait: bounded queues, quotas, and deadlines that can still be met."""

import heapq
import math
from dataclasses import dataclass

from control_plane.core.cost import ServiceCost
from control_plane.core.errors import DuplicateRequest, QueueFull, RequestError, SloUnreachable
from control_plane.core.estimators import DrainRate
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.ledger import Ledger, RequestState, TrackedRequest
from control_plane.core.outlook import Outlook
from control_plane.core.paper_abort import PaperAbort
from control_plane.core.policy import AdmissionMode, AdmissionSettings
from control_plane.core.predictor import FirstTokenPredictor, Prediction, PredictorSnapshot
from control_plane.core.queue import WaitingQueue
from control_plane.core.quotas import TokenQuotas
from control_plane.core.types import Request, ResidencyTier

# Deadlines of requests that ended are kept up to this many, and as many as requests are in flight.
_DEADLINE_SLACK = 1024
# A wait that is longer than any deadline.
_LONGEST_S = 86_400.0
# A request may be overtaken as if its cost were at most so many times the mean: the bound of its wait.
_MAX_RELATIVE_COST = 4.0


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What a request that may wait costs, where that puts it in the order, and what is expected of it."""

    num_output_tokens: float
    cost: float
    turn: float
    prediction: Prediction


class Admission:
    """Judges arrivals, and finds the waiting requests whose first token would come too late.

    In early-abort the order is by turn: the arrival, and `overtaking_s` later for a request of mean cost. A request is
    overtaken by cheaper ones only so long, and under overload those are served of which most can be served in time.
    """

    def __init__(self, settings: AdmissionSettings, quotas: TokenQuotas, predictor: FirstTokenPredictor) -> None:
        self.settings = settings
        self._quotas = quotas
        self._cost = ServiceCost()
        self._drain = DrainRate()
        self._predictor = predictor
        self._paper = PaperAbort()
        # (latest moment at which the request must be dispatched, number, id); removed requests stay until they surface.
        self._deadlines: list[tuple[float, int, str]] = []

    @property
    def predictor(self) -> PredictorSnapshot:
        """How well first tokens are predicted."""
        return self._predictor.snapshot

    @property
    def requests_per_s(self) -> float:
        """Requests of mean cost that are taken from the queue; 0 unless it is long enough to tell."""
        per_s, mean = self._drain.per_s, self._cost.mean
        return per_s / mean if per_s and mean else 0.0

    def deadline_s(self, request: Request) -> float:
        """The request's first-token deadline; infinity for none."""
        return request.first_token_deadline_s or self.settings.default_first_token_deadline_s or math.inf

    def judge(
        self, request: Request, ledger: Ledger, queue: WaitingQueue, fleet: Fleet, now: float
    ) -> Appraisal | RequestError:
        """What a request that may wait is like, or why it may not."""
        if ledger.get(request.request_id) is not None:
            return DuplicateRequest(
                f"request {request.request_id} is in flight: use another request_id",
                metadata={"field": "request_id", "request_id": request.request_id},
            )
        outlook = Outlook(fleet.columns)
        error = self._quotas.refusal(request.tenant, now, self.settings.max_retry_delay_s) or self._queue_full(
            request, queue
        )
        if error is not None:
            return error
        appraisal = self._appraise(request, queue, outlook, now)
        return self._slo_unreachable(request, appraisal.prediction, outlook) or appraisal

    def watch(self, tracked: TrackedRequest, appraisal: Appraisal | None, fleet: Fleet) -> None:
        """Watch a request that begins to wait, if it still has to produce its first token."""
        if appraisal is not None:
            tracked.cost, tracked.turn, tracked.prediction = appraisal.cost, appraisal.turn, appraisal.prediction
            tracked.num_expected_tokens = appraisal.num_output_tokens
            self._cost.arrived(appraisal.cost, self.settings.smoothing)
        if self._is_watched(tracked):
            self._push(tracked, Outlook(fleet.columns))

    def reassess(self, queue: WaitingQueue, fleet: Fleet) -> None:
        """Give all that waits its turn, and watch it, by other settings than those by which it was judged."""
        queue.reassess(lambda tracked: self._turn(tracked.cost, tracked.arrived_at))
        for tracked in queue:
            self.watch(tracked, None, fleet)

    def overdue(self, ledger: Ledger, fleet: Fleet, now: float) -> list[TrackedRequest]:
        """The waiting requests whose deadline cannot be met any more; none is watched any longer."""
        if len(self._deadlines) > 2 * len(ledger) + _DEADLINE_SLACK:
            self._deadlines = [each for each in self._deadlines if _is_open(ledger.get(each[2]), each[1])]
            heapq.heapify(self._deadlines)
        # One that waited several times is in the heap several times.
        found: dict[str, TrackedRequest] = {}
        again: list[tuple[float, int, str]] = []
        outlook: Outlook | None = None
        while self._deadlines and self._deadlines[0][0] < now:
            _, number, request_id = heapq.heappop(self._deadlines)
            tracked = ledger.get(request_id)
            if tracked is None or not _is_open(tracked, number) or not self._is_watched(tracked):
                continue
            if tracked.state is not RequestState.QUEUED:
                continue
            outlook = outlook or Outlook(fleet.columns)
            # An idle worker takes anything, late as it may seem.
            latest = tracked.deadline_at if outlook.is_idle else self._latest(tracked, outlook)
            if latest < now:
                found[request_id] = tracked
            else:
                heapq.heappush(again, (latest, number, request_id))
        for each in again:
            heapq.heappush(self._deadlines, each)
        self._paper.dropped(len(found))
        for tracked in found.values():
            if tracked.prediction is not None:
                self._predictor.dropped(tracked.prediction, now - tracked.arrived_at, self.settings.smoothing)
        return list(found.values())

    def expired(self, tracked: TrackedRequest, now: float) -> SloUnreachable:
        """The error of a request found overdue."""
        waited_s = now - tracked.arrived_at
        return SloUnreachable(
            f"the first token, due {tracked.deadline_s:g} s after arrival, cannot come in time: no worker was free for "
            f"{waited_s:.3g} s; try again later, or allow more time",
            metadata={"field": "service_level.first_token_deadline_ms"},
            retry_after_s=self._clamped(waited_s),
        )

    def observe(self, queue: WaitingQueue, now: float) -> None:
        """Look at the queue after it changed, and as time passes."""
        self._drain.observe(now, is_empty=not len(queue))

    def is_newest_first(self, queue: WaitingQueue, fleet: Fleet, now: float) -> bool:
        """Whether the newest requests go first in the batch that may be made now, if a worker has room."""
        if self.settings.mode is AdmissionMode.PAPER_ABORT:
            return self._paper.begin(len(queue), now) if fleet.has_open_worker else self._paper.is_newest_first
        return self.settings.mode is AdmissionMode.LCFS

    def dispatched(self, tracked: TrackedRequest, worker: Worker, num_left: int) -> None:
        """A request goes to a worker, and so many still wait; call before the worker counts it."""
        tracked.prefill_s = worker.prefill_s(tracked.num_prefill_tokens)
        tracked.tier = worker.tier(tracked.digest) if tracked.digest is not None else ResidencyTier.POOL
        self._drain.drained(tracked.cost)
        self._paper.dispatched(num_left)

    def first_token(self, tracked: TrackedRequest, now: float) -> None:
        """A request's first token came: measure the time since its dispatch, and how it was predicted."""
        taken_s, weight = now - tracked.sent_at, self.settings.smoothing
        self._predictor.served(tracked.request, tracked.prefill_s, tracked.tier, taken_s, weight)
        if tracked.prediction is not None and tracked.first_token_at is None:
            waited_s = tracked.sent_at - tracked.arrived_at
            self._predictor.came(tracked.prediction, waited_s, now - tracked.arrived_at, weight)

    def finished(self, tracked: TrackedRequest, now: float) -> None:
        """A request ran to its end on its worker: measure."""
        self._cost.finished(
            tracked.request,
            len(tracked.output_token_ids),
            num_resumed_tokens=tracked.num_resumed_tokens,
            held_s=now - tracked.sent_at,
            weight=self.settings.smoothing,
        )

    def _is_watched(self, tracked: TrackedRequest) -> bool:
        if self.settings.mode not in {AdmissionMode.EARLY_ABORT, AdmissionMode.PAPER_ABORT}:
            return False
        return tracked.first_token_at is None and tracked.deadline_at < math.inf

    def _push(self, tracked: TrackedRequest, outlook: Outlook) -> None:
        heapq.heappush(self._deadlines, (self._latest(tracked, outlook), tracked.number, tracked.request_id))

    def _latest(self, tracked: TrackedRequest, outlook: Outlook) -> float:
        """When a request must be dispatched to be in time."""
        if self.settings.mode is AdmissionMode.PAPER_ABORT:
            return tracked.deadline_at - self.settings.abort_margin_s
        prefill_s = outlook.prefill_s(tracked.num_prefill_tokens, is_alone=True)
        return tracked.deadline_at - self._predictor.service_s(tracked.request, prefill_s, outlook.tier(tracked.digest))

    def _appraise(self, request: Request, queue: WaitingQueue, outlook: Outlook, now: float) -> Appraisal:
        digest = request.adapter.digest if request.adapter is not None else None
        cost = self._cost.of(
            request,
            outlook.room,
            prefill_tokens_per_s=outlook.prefill_tokens_per_s,
            is_resident=outlook.is_in_use(digest),
        )
        turn = self._turn(cost, now)
        cost_ahead = queue.cost_ahead(request, turn)
        raw_wait_s, least_wait_s = self._wait_s(cost_ahead), self._wait_s(cost_ahead, self._drain.most_per_s)
        num_tokens = len(request.prompt_token_ids)
        prefill_s = outlook.prefill_s(num_tokens, is_alone=raw_wait_s > 0)
        service_s = self._predictor.service_s(request, prefill_s, outlook.tier(digest))
        prediction = self._predictor.predict(raw_wait_s, service_s, least_wait_s)
        return Appraisal(self._cost.num_output_tokens(request), cost, turn, prediction)

    def _turn(self, cost: float, arrived_at: float) -> float:
        if self.settings.mode is not AdmissionMode.EARLY_ABORT:
            return arrived_at
        mean = self._cost.mean or cost
        return arrived_at + self.settings.overtaking_s * min(cost / mean, _MAX_RELATIVE_COST)

    def _wait_s(self, cost_ahead: float, at_per_s: float | None = None) -> float:
        """Expected wait behind requests of this cost, while they are served as fast as they were; 0 if not known."""
        per_s = self._drain.per_s if at_per_s is None else at_per_s
        if per_s is None:
            return 0.0
        return min(cost_ahead / per_s, _LONGEST_S) if per_s > 0 else _LONGEST_S

    def _queue_full(self, request: Request, queue: WaitingQueue) -> QueueFull | None:
        num_of_tenant = queue.num_of_tenant(request.tenant)
        if num_of_tenant >= self.settings.max_queued_per_tenant:
            bound, num_queued, whose = "max_queued_per_tenant", num_of_tenant, f"tenant {request.tenant}"
        elif len(queue) >= self.settings.max_queued and num_of_tenant + 1 >= queue.num_of_largest:
            bound, num_queued, whose = "max_queued", len(queue), "all tenants"
        else:
            return None
        return self._queue_full_error(bound, num_queued, whose)

    def _queue_full_error(self, bound: str, num_queued: int, whose: str) -> QueueFull:
        """The error of a request for which there is no room in the queue."""
        return QueueFull(
            f"{num_queued} requests of {whose} wait already: try again later, or raise admission.{bound}",
            metadata={"limit": bound, "queued": str(num_queued)},
            retry_after_s=self._retry_delay_s(num_queued),
        )

    def displaced(self, queue: WaitingQueue) -> tuple[TrackedRequest, QueueFull] | None:
        """The request that goes so that the queue keeps its bound: the last of the tenant that has most waiting."""
        if len(queue) <= self.settings.max_queued:
            return None
        tracked = queue.last_of_largest()
        tenant = tracked.request.tenant
        error = self._queue_full_error("max_queued", queue.num_of_largest, f"tenant {tenant}")
        return tracked, error

    def _slo_unreachable(self, request: Request, prediction: Prediction, outlook: Outlook) -> SloUnreachable | None:
        deadline_s = self.deadline_s(request)
        if self.settings.mode is not AdmissionMode.EARLY_ABORT or math.isinf(deadline_s):
            return None
        # An idle worker takes anything: that is how rates are measured again once load and estimates part.
        # To wait costs nothing and may turn out well, so the fastest that this queue was served decides, not the mean.
        expected_s = prediction.first_token_s
        if outlook.is_idle or min(prediction.least_wait_s + prediction.service_s, expected_s) <= deadline_s:
            return None
        return SloUnreachable(
            f"the first token is expected after {expected_s:.3g} s, later than the {deadline_s:g} s asked for: "
            "try again later, or allow more time",
            metadata={"field": "service_level.first_token_deadline_ms", "expected_ms": f"{expected_s * 1000:.0f}"},
            retry_after_s=self._clamped(expected_s - deadline_s),
        )

    def _retry_delay_s(self, num_queued: int) -> float:
        """When about half of the queue will have been served."""
        return self._clamped(self._wait_s(num_queued / 2 * self._cost.mean) or self.settings.default_retry_delay_s)

    def _clamped(self, delay_s: float) -> float:
        return min(max(delay_s, 0.01), self.settings.max_retry_delay_s)


def _is_open(tracked: TrackedRequest | None, number: int) -> bool:
    """Whether the request is the one that arrived with this number, and has not ended."""
    return tracked is not None and tracked.number == number and tracked.state is not RequestState.ENDED
