"""What can go wrong between the adapter store and host memory."""

from worker.errors import Code, WorkerError


class AdapterNotFound(WorkerError):
    """The store has no weights of this digest."""

    reason = "ADAPTER_NOT_FOUND"
    code = Code.NOT_FOUND


class AdapterCorrupt(WorkerError):
    """What came is not the file that the digest names, or not a canonical weights file."""

    reason = "ADAPTER_CORRUPT"
    code = Code.DATA_LOSS


class AdapterShapeMismatch(WorkerError):
    """A matrix that the worker's base model has no place for."""

    reason = "ADAPTER_SHAPE_MISMATCH"
    code = Code.FAILED_PRECONDITION


class AdapterBaseModelMismatch(WorkerError):
    """The adapter was trained on another base model."""

    reason = "BASE_MODEL_MISMATCH"
    code = Code.FAILED_PRECONDITION


class AdapterNotFinite(WorkerError):
    """A weight is NaN or infinite, or becomes so in the model's type."""

    reason = "ADAPTER_NOT_FINITE"
    code = Code.FAILED_PRECONDITION


class AdapterTooLarge(WorkerError):
    """The adapter can never fit in what this worker was given."""

    reason = "ADAPTER_TOO_LARGE"
    code = Code.FAILED_PRECONDITION


class StoreUnavailable(WorkerError):
    """The adapter store did not answer, or not in time."""

    reason = "STORE_UNAVAILABLE"
    code = Code.UNAVAILABLE
    retryable = True


class StoreFailed(WorkerError):
    """The adapter store answered with an error that trying again does not mend."""

    reason = "STORE_FAILED"
    code = Code.INTERNAL


class HostCacheFull(WorkerError):
    """Adapters of running requests fill the host cache."""

    reason = "HOST_CACHE_FULL"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True
