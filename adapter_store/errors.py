"""What can go wrong in the store: one class per stable reason, each with the gRPC status that it becomes."""

from typing import ClassVar

from grpc import StatusCode


class StoreError(Exception):
    """Something that a caller or an operator can act on.

    Attributes:
        reason: Stable UPPER_SNAKE name of the class of error.
        code: The gRPC status that it becomes.
        retry_after_s: When trying again makes sense; None if it does not.
        message: What happened and what to change.
        metadata: Details for a machine; `field` names what has to change, if anything.
    """

    reason: ClassVar[str]
    code: ClassVar[StatusCode]
    retry_after_s: ClassVar[float | None] = None

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


class ConfigInvalid(StoreError):
    """The store's own configuration cannot be served; the message has one line per problem."""

    reason = "CONFIG_INVALID"
    code = StatusCode.FAILED_PRECONDITION


class RequestInvalid(StoreError):
    """A message breaks the contract of adapter.proto."""

    reason = "REQUEST_INVALID"
    code = StatusCode.INVALID_ARGUMENT


class UploadIncomplete(StoreError):
    """A stream ended before everything that it announced had arrived."""

    reason = "UPLOAD_INCOMPLETE"
    code = StatusCode.INVALID_ARGUMENT


class UploadStalled(StoreError):
    """Nothing arrived on an upload for too long."""

    reason = "UPLOAD_STALLED"
    code = StatusCode.DEADLINE_EXCEEDED


class TooManyUploads(StoreError):
    """As many adapters as allowed are being published."""

    reason = "TOO_MANY_UPLOADS"
    code = StatusCode.RESOURCE_EXHAUSTED
    retry_after_s = 1.0


class TooManyVersions(StoreError):
    """An adapter has as many versions as allowed."""

    reason = "TOO_MANY_VERSIONS"
    code = StatusCode.FAILED_PRECONDITION


class StoreFull(StoreError):
    """The disk under data_dir is full."""

    reason = "STORE_FULL"
    code = StatusCode.RESOURCE_EXHAUSTED


class AdapterInvalid(StoreError):
    """A published adapter is refused; the subclass says what kind of defect it has."""

    reason = "ADAPTER_INVALID"
    code = StatusCode.INVALID_ARGUMENT


class AdapterConfigInvalid(AdapterInvalid):
    """adapter_config.json is not what PEFT could have written."""

    reason = "ADAPTER_CONFIG_INVALID"


class AdapterUnsupported(AdapterInvalid):
    """The adapter uses something that Multitude does not serve, named in the message."""

    reason = "ADAPTER_UNSUPPORTED"


class AdapterShapeMismatch(AdapterInvalid):
    """A tensor's shape does not follow from the adapter's ranks and the base model."""

    reason = "ADAPTER_SHAPE_MISMATCH"


class AdapterTensorMissing(AdapterInvalid):
    """A targeted module lacks lora_A, lora_B or both."""

    reason = "ADAPTER_TENSOR_MISSING"


class AdapterTensorUnexpected(AdapterInvalid):
    """The file holds a tensor that the configuration gives no meaning to."""

    reason = "ADAPTER_TENSOR_UNEXPECTED"


class AdapterNotFinite(AdapterInvalid):
    """A weight or a scale is NaN or infinite."""

    reason = "ADAPTER_NOT_FINITE"


class AdapterFileCorrupt(AdapterInvalid):
    """A file is truncated or is not well-formed safetensors."""

    reason = "ADAPTER_FILE_CORRUPT"


class AdapterNotSafetensors(AdapterInvalid):
    """Weights come as a pickle or in another format that is not safetensors."""

    reason = "ADAPTER_NOT_SAFETENSORS"


class AdapterTooLarge(AdapterInvalid):
    """The adapter exceeds one of the store's limits."""

    reason = "ADAPTER_TOO_LARGE"


class BaseModelMismatch(StoreError):
    """The adapter was not trained on the base model that this store serves."""

    reason = "BASE_MODEL_MISMATCH"
    code = StatusCode.FAILED_PRECONDITION


class SourceNotAllowed(StoreError):
    """A source is not under one of the operator's import roots."""

    reason = "SOURCE_NOT_ALLOWED"
    code = StatusCode.PERMISSION_DENIED


class SourceNotFound(StoreError):
    """A source is allowed, and nothing is there."""

    reason = "SOURCE_NOT_FOUND"
    code = StatusCode.NOT_FOUND


class AdapterNotFound(StoreError):
    """No adapter has this id."""

    reason = "ADAPTER_NOT_FOUND"
    code = StatusCode.NOT_FOUND


class VersionNotFound(StoreError):
    """No version has this digest."""

    reason = "VERSION_NOT_FOUND"
    code = StatusCode.NOT_FOUND


class OffsetOutOfRange(StoreError):
    """A fetch wants to begin outside the file."""

    reason = "OFFSET_OUT_OF_RANGE"
    code = StatusCode.OUT_OF_RANGE


class BlobCorrupt(StoreError):
    """A stored file is not there or not as long as the catalog says; the disk under data_dir needs attention."""

    reason = "BLOB_CORRUPT"
    code = StatusCode.DATA_LOSS


class InternalError(StoreError):
    """A mistake of our own; the log has the traceback."""

    reason = "INTERNAL"
    code = StatusCode.INTERNAL
