"""What goes wrong, as exceptions: one class for each kind of answer, with the service's stable reason on it."""

from collections.abc import Iterable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class MultitudeError(Exception):
    """A call failed.

    Attributes:
        reason: stable UPPER_SNAKE name of the cause, such as "ADAPTER_NOT_FOUND".
        metadata: what to change; `field` names the field at fault.
        retry_after_s: when trying again makes sense, in seconds; None if the service did not say.
    """

    def __init__(
        self, message: str, *, reason: str, metadata: dict[str, str] | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.metadata = metadata or {}
        self.retry_after_s = retry_after_s

    @property
    def message(self) -> str:
        """What happened and what to change."""
        return str(self.args[0])


class InvalidRequestError(MultitudeError):
    """The request, adapter or policy is at fault; the message says what to change."""


class NotFoundError(MultitudeError):
    """What the request names does not exist."""


class ConflictError(MultitudeError):
    """A request with this id is in flight, or the service holds another base model."""


class PermissionDeniedError(MultitudeError):
    """The operator does not allow it."""


class OverloadedError(MultitudeError):
    """The service refused at once instead of being late; `retry_after_s` says when to come back."""


class DeadlineError(MultitudeError):
    """The deadline passed, or could not be met."""


class CancelledByCallerError(MultitudeError):
    """This call was cancelled."""


class UnavailableError(MultitudeError):
    """The service cannot be reached, or has no worker."""


class InternalServiceError(MultitudeError):
    """The service is at fault."""


class LocalStackError(MultitudeError):
    """The services could not be run on this machine."""


_CLASSES: dict[grpc.StatusCode, type[MultitudeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.CANCELLED: CancelledByCallerError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}

_SAID_BY_GRPC = {
    grpc.StatusCode.UNAVAILABLE: "the service cannot be reached; start it, or correct its address ({})",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer within the time that the call was given; give it more ({})",
}


def from_rpc_error(error: Any) -> MultitudeError:
    """The typed error for a failed call, synchronous or asynchronous; its cause is not set."""
    code: grpc.StatusCode = error.code()
    message = error.details() or code.name
    reason, metadata, retry_after_s = code.name, {}, None
    trailing: Iterable[tuple[str, bytes]] = error.trailing_metadata() or ()
    for value in (value for key, value in trailing if key == _DETAILS_KEY):
        for detail in status_pb2.Status.FromString(value).details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason, metadata = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    if reason == code.name:  # said by gRPC, not by a service
        message = _SAID_BY_GRPC.get(code, "{}").format(message)
    kind = _CLASSES.get(code, InternalServiceError)
    if reason == code.name and "message larger than max" in message:  # too large now is too large later
        kind, reason, message = InvalidRequestError, "MESSAGE_TOO_LARGE", f"send less in one call ({message})"
    return kind(message, reason=reason, metadata=metadata, retry_after_s=retry_after_s)
