"""Why a request was refused or failed; control_plane/errors.py maps statuses to gRPC at the edge."""

from collections.abc import Mapping
from enum import Enum

from control_plane.core.types import WorkerFailure


class Status(Enum):
    """How a caller should treat an error: the name and number of the gRPC status code of the same name."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RequestError(Exception):
    """A request that was refused or failed.

    `status` and `reason` are stable and may be matched on; `metadata` holds detail as strings, such as the `field` at
    fault; `retry_after_s`, if set, is when trying again makes sense. The message says what to change.
    """

    status: Status
    reason: str

    def __init__(
        self, message: str, *, metadata: Mapping[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class QueueFull(RequestError):
    """Too many requests wait, of this tenant or in all."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"


class QuotaExceeded(RequestError):
    """The tenant has used the tokens that it may use."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"


class SloUnreachable(RequestError):
    """The first token would come after the request's deadline, or the deadline passed as the request waited."""

    status = Status.DEADLINE_EXCEEDED
    reason = "SLO_UNREACHABLE"


class NoWorker(RequestError):
    """No worker that can take the request was attached for longer than the grace time."""

    status = Status.UNAVAILABLE
    reason = "NO_WORKER"


class DuplicateRequest(RequestError):
    """A request with this id is in flight."""

    status = Status.ALREADY_EXISTS
    reason = "DUPLICATE_REQUEST"


class AdapterNotFound(RequestError):
    """The adapter, or the version named, is not in the store."""

    status = Status.NOT_FOUND
    reason = "ADAPTER_NOT_FOUND"


class AttemptsExhausted(RequestError):
    """Worker after worker was lost or refused the request."""

    status = Status.UNAVAILABLE
    reason = "ATTEMPTS_EXHAUSTED"


class WorkerRequestFailed(RequestError):
    """A worker failed the request for good; status and reason are the worker's own."""

    def __init__(self, failure: WorkerFailure, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(failure.message, metadata=metadata)
        self.status = status_of(failure.code)
        self.reason = failure.reason or "WORKER_FAILED"


def status_of(code: int) -> Status:
    """The status with this number; UNKNOWN for a number that names none."""
    try:
        return Status(code)
    except ValueError:
        return Status.UNKNOWN
