"""What the shell refuses, and the one table that turns every error of a request into a gRPC status."""

from typing import Any, Final, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from control_plane.core.errors import RequestError, Status

DOMAIN: Final = "multitude"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"

_LONGEST_RETRY_S: Final = 86_400.0

GRPC_STATUS: Final = {
    Status.CANCELLED: grpc.StatusCode.CANCELLED,
    Status.UNKNOWN: grpc.StatusCode.UNKNOWN,
    Status.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Status.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Status.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Status.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Status.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Status.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Status.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Status.ABORTED: grpc.StatusCode.ABORTED,
    Status.OUT_OF_RANGE: grpc.StatusCode.OUT_OF_RANGE,
    Status.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Status.INTERNAL: grpc.StatusCode.INTERNAL,
    Status.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Status.DATA_LOSS: grpc.StatusCode.DATA_LOSS,
    Status.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
}


class InvalidRequest(RequestError):
    """A field of a request is wrong; `field` names it as the proto does, such as "sampling.top_p"."""

    status = Status.INVALID_ARGUMENT

    def __init__(self, field: str, message: str, **metadata: str) -> None:
        super().__init__(f"{field}: {message}" if field else message, metadata={"field": field, **metadata})


class RequestMalformed(InvalidRequest):
    """The bytes of the request are not the message that the method takes, or its text is not UTF-8."""

    reason = "REQUEST_MALFORMED"


class RequestIdInvalid(InvalidRequest):
    """The request id is too long or holds characters that do not print."""

    reason = "REQUEST_ID_INVALID"


class AdapterNameInvalid(InvalidRequest):
    """The adapter field is neither an id nor an id with a digest."""

    reason = "ADAPTER_NAME_INVALID"


class PromptEmpty(InvalidRequest):
    """There is no prompt, or it has no token."""

    reason = "PROMPT_EMPTY"


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room for output in the context."""

    reason = "PROMPT_TOO_LONG"


class TokenOutOfRange(InvalidRequest):
    """A token id is not in the vocabulary."""

    reason = "TOKEN_OUT_OF_RANGE"


class ChatTemplateMissing(InvalidRequest):
    """The model has no chat template."""

    reason = "CHAT_TEMPLATE_MISSING"


class ChatTemplateFailed(InvalidRequest):
    """The model's chat template refuses the conversation."""

    reason = "CHAT_TEMPLATE_FAILED"


class MaxTokensOutOfRange(InvalidRequest):
    """max_tokens is below 1, or prompt and output do not fit in the context."""

    reason = "MAX_TOKENS_OUT_OF_RANGE"


class SamplingOutOfRange(InvalidRequest):
    """A sampling parameter is outside its range."""

    reason = "SAMPLING_OUT_OF_RANGE"


class StopInvalid(InvalidRequest):
    """There are too many stop conditions, or one is empty, too long or not in the vocabulary."""

    reason = "STOP_INVALID"


class LogprobsOutOfRange(InvalidRequest):
    """Too many or too few log-probabilities are asked for."""

    reason = "LOGPROBS_OUT_OF_RANGE"


class PriorityOutOfRange(InvalidRequest):
    """The priority is outside its range."""

    reason = "PRIORITY_OUT_OF_RANGE"


class ServiceLevelInvalid(InvalidRequest):
    """A deadline is negative or too far away."""

    reason = "SERVICE_LEVEL_INVALID"


class PageInvalid(InvalidRequest):
    """The page size or page token is wrong."""

    reason = "PAGE_INVALID"


class TenantInvalid(InvalidRequest):
    """The call's metadata names no tenant, or several."""

    reason = "TENANT_INVALID"


class TenantUnknown(RequestError):
    """The operator does not serve this tenant."""

    status = Status.PERMISSION_DENIED
    reason = "TENANT_UNKNOWN"


class PolicyInvalid(InvalidRequest):
    """A policy has faults; the message names each with its line."""

    reason = "POLICY_INVALID"


class PolicyVersionNotFound(RequestError):
    """The version to go back to is not remembered."""

    status = Status.NOT_FOUND
    reason = "POLICY_VERSION_NOT_FOUND"


class StateNotConfigured(RequestError):
    """What was asked for is kept in Redis, and there is to be none."""

    status = Status.FAILED_PRECONDITION
    reason = "STATE_NOT_CONFIGURED"


class StateUnavailable(RequestError):
    """What was asked for is kept in Redis, which cannot be reached."""

    status = Status.UNAVAILABLE
    reason = "STATE_UNAVAILABLE"


class WorkerIdInvalid(InvalidRequest):
    """A worker's id is empty, too long or holds other characters than such ids have."""

    reason = "WORKER_ID_INVALID"


class DrainsFull(RequestError):
    """Too many workers are marked as taken out of service."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "DRAINS_FULL"


class ExplainSubjectMissing(InvalidRequest):
    """It is not said what to explain."""

    reason = "EXPLAIN_SUBJECT_MISSING"


class ExplainOutOfRange(InvalidRequest):
    """A field of the request that is to be explained is outside its range."""

    reason = "EXPLAIN_OUT_OF_RANGE"


class RequestNotRemembered(RequestError):
    """The request is not in flight here, nor among the last that ended here."""

    status = Status.NOT_FOUND
    reason = "REQUEST_NOT_REMEMBERED"


class TraceInvalid(InvalidRequest):
    """A trace cannot be played; the message names the line."""

    reason = "TRACE_INVALID"


class SimulationInvalid(InvalidRequest):
    """What is to be simulated is out of range."""

    reason = "SIMULATION_INVALID"


class SimulationBusy(RequestError):
    """A simulation runs already."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "SIMULATION_BUSY"


class SimulationTooLong(RequestError):
    """A simulation took longer than it may."""

    status = Status.DEADLINE_EXCEEDED
    reason = "SIMULATION_TOO_LONG"


class BaseModelMismatch(RequestError):
    """The adapter was made for another base model."""

    status = Status.FAILED_PRECONDITION
    reason = "BASE_MODEL_MISMATCH"


class StoreUnavailable(RequestError):
    """The adapter store does not answer, and the adapter is not known from before."""

    status = Status.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class Draining(RequestError):
    """The control plane is shutting down and takes nothing new."""

    status = Status.UNAVAILABLE
    reason = "DRAINING"


class InternalError(RequestError):
    """Our own mistake; the log has the traceback."""

    status = Status.INTERNAL
    reason = "INTERNAL"


def status_details(error: RequestError) -> status_pb2.Status:
    """The rich status of an error: code, message, ErrorInfo, and RetryInfo where the error says when to try again."""
    details = [_packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(0, round(min(error.retry_after_s, _LONGEST_RETRY_S) * 1000)))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=error.status.value, message=error.message, details=details)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: RequestError) -> NoReturn:
    """Ends a call with an error's status and details."""
    await context.abort(
        GRPC_STATUS[error.status],
        error.message,
        ((STATUS_DETAILS_KEY, status_details(error).SerializeToString()),),
    )
    raise AssertionError("abort returned")


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
