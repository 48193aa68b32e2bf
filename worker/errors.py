"""What can go wrong on a worker: one class per stable reason, each with the gRPC status that it becomes at the edge.

Rooms of the worker subclass `WorkerError` in their own modules; a test proves that every subclass names a `reason`
and a `code`. No grpc here: the engine process raises these too.
"""

from enum import IntEnum
from typing import ClassVar


class Code(IntEnum):
    """The gRPC status codes that the worker uses, by their number in google.rpc.Code."""

    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15


class WorkerError(Exception):
    """Something that a caller or an operator can act on.

    Attributes:
        reason: Stable UPPER_SNAKE name of the class of error.
        code: The gRPC status it becomes.
        retryable: Whether another worker, or this one later, might succeed.
        message: What happened and what to change.
        metadata: Details for a machine; `field` names what has to change, if anything.
    """

    reason: ClassVar[str]
    code: ClassVar[Code]
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class ConfigInvalidError(WorkerError):
    """The configuration cannot be served; the message has one line per problem."""

    reason = "CONFIG_INVALID"
    code = Code.INVALID_ARGUMENT


class ListenFailedError(WorkerError):
    """The address to listen on cannot be taken."""

    reason = "LISTEN_FAILED"
    code = Code.FAILED_PRECONDITION


class StreamNotAttachedError(WorkerError):
    """A Dispatch stream did not begin with `attach`, or attached twice."""

    reason = "STREAM_NOT_ATTACHED"
    code = Code.INVALID_ARGUMENT


class BaseModelMismatchError(WorkerError):
    """A control plane serves another base model than this worker."""

    reason = "BASE_MODEL_MISMATCH"
    code = Code.FAILED_PRECONDITION


class RequestInvalidError(WorkerError):
    """A dispatched request breaks the contract of worker.proto."""

    reason = "REQUEST_INVALID"
    code = Code.INVALID_ARGUMENT


class PromptEmptyError(RequestInvalidError):
    """A request without a prompt."""

    reason = "PROMPT_EMPTY"


class PromptTooLongError(RequestInvalidError):
    """Prompt and resumed output leave no room in the context."""

    reason = "PROMPT_TOO_LONG"


class TokenOutOfVocabularyError(RequestInvalidError):
    """A token id that the model does not have."""

    reason = "TOKEN_OUT_OF_VOCABULARY"


class MaxTokensOutOfRangeError(RequestInvalidError):
    """`max_tokens` is less than 1, or not more than the resumed output."""

    reason = "MAX_TOKENS_OUT_OF_RANGE"


class SamplingOutOfRangeError(RequestInvalidError):
    """A sampling field outside its range."""

    reason = "SAMPLING_OUT_OF_RANGE"


class StopConditionsInvalidError(RequestInvalidError):
    """Too many stop strings or ids, or one outside its range."""

    reason = "STOP_CONDITIONS_INVALID"


class RequestDuplicateError(WorkerError):
    """A request of this id is in flight on the same stream."""

    reason = "REQUEST_DUPLICATE"
    code = Code.INVALID_ARGUMENT


class RequestWindowExceededError(WorkerError):
    """The stream holds as many requests as its window allows."""

    reason = "REQUEST_WINDOW_EXCEEDED"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True


class AdapterStoreMissingError(WorkerError):
    """A request names an adapter, and the worker was given no adapter store."""

    reason = "ADAPTER_STORE_MISSING"
    code = Code.FAILED_PRECONDITION


class WorkerDrainingError(WorkerError):
    """The worker is shutting down."""

    reason = "WORKER_DRAINING"
    code = Code.UNAVAILABLE
    retryable = True


class EngineCrashedError(WorkerError):
    """The engine process is gone, and with it every request that it ran."""

    reason = "ENGINE_CRASHED"
    code = Code.UNAVAILABLE
    retryable = True


class EngineStartError(WorkerError):
    """The engine process could not be brought up."""

    reason = "ENGINE_START_FAILED"
    code = Code.FAILED_PRECONDITION


class InternalError(WorkerError):
    """A mistake of our own; the log has the traceback."""

    reason = "INTERNAL"
    code = Code.INTERNAL
    retryable = True
