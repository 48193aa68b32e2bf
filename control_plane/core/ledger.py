"""The life of every request in flight; the one owner of its state."""

from collections.abc import Iterator
from enum import Enum

from control_plane.core.errors import RequestError
from control_plane.core.predictor import Prediction
from control_plane.core.types import Failed, Finished, FinishReason, Request, ResidencyTier, Timings, Usage


class RequestState(Enum):
    """Where a request is in its life."""

    QUEUED = "queued"
    """Admitted, on no worker."""
    DISPATCHED = "dispatched"
    """Sent to a worker that has not answered."""
    RUNNING = "running"
    """Taken by a worker."""
    ENDED = "ended"
    """Its client was told; a worker may not know yet, and holds its place until it does."""


class TrackedRequest:
    """A request in flight and what became of it so far; only the core's stages change it."""

    __slots__ = (
        "arrived_at",
        "attempts",
        "avoid",
        "cost",
        "deadline_at",
        "dispatched_at",
        "first_token_at",
        "is_hinted",
        "is_prefilling",
        "is_requeued",
        "not_before",
        "num_expected_tokens",
        "num_resumed_tokens",
        "number",
        "output_token_ids",
        "prediction",
        "prefill_s",
        "request",
        "sent_at",
        "share",
        "state",
        "tier",
        "turn",
        "unplaceable_since",
        "worker_id",
    )

    def __init__(self, request: Request, number: int, now: float, deadline_s: float) -> None:
        self.request = request
        self.number = number
        self.arrived_at = now
        self.deadline_at = now + deadline_s
        self.state = RequestState.QUEUED
        self.output_token_ids: list[int] = []
        # Of the present attempt: the worker, when it was sent, the output that it began with, whether its prompt is
        # still to be computed, how long that takes alone, where its adapter was, and what it takes of the worker.
        self.worker_id: str | None = None
        self.sent_at = now
        self.num_resumed_tokens = 0
        self.is_prefilling = False
        self.prefill_s = 0.0
        self.tier = ResidencyTier.NONE
        self.share = 0.0
        # Of all attempts.
        self.attempts = 0
        self.avoid: frozenset[str] = frozenset()
        self.is_requeued = False
        self.not_before = now
        self.unplaceable_since: float | None = None
        self.is_hinted = False
        self.dispatched_at: float | None = None
        self.first_token_at: float | None = None
        # What admission thought of it: its output, its cost, its place in the order, and when its first token comes.
        self.num_expected_tokens = float(request.max_tokens)
        self.cost = 0.0
        self.turn = 0.0
        self.prediction: Prediction | None = None

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.request_id

    @property
    def digest(self) -> str | None:
        """Its adapter's digest; None for the base model."""
        return self.request.adapter.digest if self.request.adapter else None

    @property
    def deadline_s(self) -> float:
        """Its first-token deadline, from its arrival; infinity for none."""
        return self.deadline_at - self.arrived_at

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens that a worker computes before it produces the next one."""
        return len(self.request.prompt_token_ids) + len(self.output_token_ids)

    @property
    def num_final_tokens(self) -> float:
        """Tokens of KV that it is expected to hold at its end."""
        return len(self.request.prompt_token_ids) + self.num_expected_tokens

    @property
    def is_complete(self) -> bool:
        """Whether all the output that the request may have was produced."""
        return len(self.output_token_ids) >= self.request.max_tokens


class Ledger:
    """Every request that was accepted and has not ended, and those ended that a worker still holds."""

    def __init__(self) -> None:
        self._requests: dict[str, TrackedRequest] = {}
        self._num_arrived = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[TrackedRequest]:
        return iter(self._requests.values())

    def get(self, request_id: str) -> TrackedRequest | None:
        """The request with this id, if it is in flight."""
        return self._requests.get(request_id)

    def open(self, request: Request, now: float, deadline_s: float) -> TrackedRequest:
        """Begin the life of an admitted request."""
        assert request.request_id not in self._requests
        self._num_arrived += 1
        tracked = TrackedRequest(request, self._num_arrived, now, deadline_s)
        self._requests[request.request_id] = tracked
        return tracked

    def finish(self, tracked: TrackedRequest, reason: FinishReason, now: float) -> Finished:
        """End a request well."""
        self._end(tracked)
        arrived_at, request = tracked.arrived_at, tracked.request
        return Finished(
            request_id=request.request_id,
            reason=reason,
            usage=Usage(len(request.prompt_token_ids), len(tracked.output_token_ids)),
            timings=Timings(
                dispatched_s=None if tracked.dispatched_at is None else tracked.dispatched_at - arrived_at,
                first_token_s=None if tracked.first_token_at is None else tracked.first_token_at - arrived_at,
                finished_s=now - arrived_at,
            ),
        )

    def fail(self, tracked: TrackedRequest, error: RequestError) -> Failed:
        """End a request with an error."""
        self._end(tracked)
        return Failed(tracked.request_id, error)

    def forget(self, tracked: TrackedRequest) -> None:
        """Let an ended request's id be used again; no worker holds it."""
        assert tracked.state is RequestState.ENDED
        assert tracked.worker_id is None
        del self._requests[tracked.request_id]

    def _end(self, tracked: TrackedRequest) -> None:
        assert tracked.state is not RequestState.ENDED, f"{tracked.request_id} ended twice"
        tracked.state = RequestState.ENDED
