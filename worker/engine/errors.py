"""Why the engine refuses or fails a request, besides a pool that is too small for it (`worker.memory.errors`)."""

from worker.errors import Code, WorkerError


class WaitingQueueFull(WorkerError):
    """As many sequences wait as the configuration allows."""

    reason = "WAITING_QUEUE_FULL"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True


class AdapterRankTooLarge(WorkerError):
    """A rank of the adapter is above the configured bound."""

    reason = "ADAPTER_RANK_TOO_LARGE"
    code = Code.FAILED_PRECONDITION


class LogitsNotFinite(WorkerError):
    """The model's answer is no distribution: NaN, or infinite."""

    reason = "LOGITS_NOT_FINITE"
    code = Code.FAILED_PRECONDITION
