"""What can go wrong with memory."""

from worker.errors import Code, WorkerError


class OutOfPages(WorkerError):
    """The pool has fewer free pages than were asked for; nothing was taken."""

    reason = "OUT_OF_PAGES"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True


class PoolTooSmall(WorkerError):
    """The pool's budget does not hold what the worker needs to serve a single request."""

    reason = "POOL_TOO_SMALL"
    code = Code.FAILED_PRECONDITION


class HostArenaUnusable(WorkerError):
    """The host arena does not fit in the folder that was chosen for it, cannot be made there, or holds no page."""

    reason = "HOST_ARENA_UNUSABLE"
    code = Code.FAILED_PRECONDITION


class HostMemoryFull(WorkerError):
    """Something else took the room that the host arena's file system had when the worker started."""

    reason = "HOST_MEMORY_FULL"
    code = Code.RESOURCE_EXHAUSTED
    retryable = True
