"""The workers as the control plane sees them."""

import math
from collections.abc import Iterator

from control_plane.core.estimators import PrefillRate
from control_plane.core.ledger import TrackedRequest
from control_plane.core.types import AdapterRef, ResidencyTier, WorkerStatus


class Worker:
    """An attached worker: what it reported, and what was sent to it since."""

    def __init__(self, status: WorkerStatus) -> None:
        self.worker_id = status.worker_id
        self.status = status
        self.has_lease = True
        self.residency: dict[str, ResidencyTier] = {}
        self.in_flight: dict[str, TrackedRequest] = {}
        self.prefill_rate = PrefillRate()
        self._num_requests_of: dict[str, int] = {}
        self._sum_log_rank = 0.0
        self._num_with_adapter = 0
        self._num_prefill_tokens = 0
        self._hinted: dict[str, None] = {}

    @property
    def window(self) -> int:
        """Most requests that the worker may hold; 0 while it is to get none."""
        return self.status.request_window if self.has_lease else 0

    @property
    def num_free_places(self) -> int:
        """Requests that may be sent now; never negative."""
        return max(0, self.window - len(self.in_flight))

    @property
    def load(self) -> float:
        """Share of the window that is taken, in [0, 1]."""
        return min(1.0, len(self.in_flight) / self.window) if self.window > 0 else 1.0

    @property
    def num_adapters(self) -> int:
        """Distinct adapters among the requests in flight."""
        return len(self._num_requests_of)

    @property
    def adapters(self) -> Iterator[str]:
        """Their digests."""
        return iter(self._num_requests_of)

    @property
    def mean_log2_rank(self) -> float | None:
        """Mean log2 of the ranks of the requests in flight that have an adapter; None if there are none."""
        return self._sum_log_rank / self._num_with_adapter if self._num_with_adapter else None

    @property
    def pending_prefill_tokens(self) -> int:
        """Prompt tokens still to be computed: of our own requests, or of everybody's as last reported."""
        return max(self._num_prefill_tokens, self.status.pending_prefill_tokens)

    def has_adapter(self, digest: str) -> bool:
        """Whether a request in flight uses this adapter."""
        return digest in self._num_requests_of

    def tier(self, digest: str) -> ResidencyTier:
        """Where an adapter is, or will be by the time a request sent now needs it."""
        if digest in self._num_requests_of:
            return ResidencyTier.POOL
        tier = self.residency.get(digest, ResidencyTier.NONE)
        if tier is ResidencyTier.NONE and digest in self._hinted:
            return ResidencyTier.HOST
        return tier

    def prefill_s(self, num_tokens: int) -> float:
        """Time to compute so many prompt tokens; 0 while the rate is not known."""
        rate = self.prefill_rate.tokens_per_s
        return num_tokens / rate if rate else 0.0

    def merge(self, status: WorkerStatus, now: float, smoothing: float) -> None:
        """Take a report in."""
        if status.is_residency_snapshot:
            self.residency = {}
        for digest, tier in status.residency:
            self._hinted.pop(digest, None)
            if tier is ResidencyTier.NONE:
                self.residency.pop(digest, None)
            else:
                self.residency[digest] = tier
        self.prefill_rate.add(
            status.num_prefill_tokens, is_pending=status.pending_prefill_tokens > 0, now=now, weight=smoothing
        )
        self.status = status

    def take(self, tracked: TrackedRequest) -> None:
        """Count a request that is sent here."""
        assert len(self.in_flight) < self.window, f"window of {self.worker_id} exceeded"
        self.in_flight[tracked.request_id] = tracked
        self._num_prefill_tokens += tracked.num_prefill_tokens
        tracked.is_prefilling = True
        adapter = tracked.request.adapter
        if adapter is not None:
            self._num_requests_of[adapter.digest] = self._num_requests_of.get(adapter.digest, 0) + 1
            self._sum_log_rank += math.log2(max(1, adapter.rank))
            self._num_with_adapter += 1

    def prefilled(self, tracked: TrackedRequest) -> None:
        """Count a request's prompt as computed; call before its first new token is added to its output."""
        if tracked.is_prefilling:
            self._num_prefill_tokens -= tracked.num_prefill_tokens
            tracked.is_prefilling = False

    def release(self, tracked: TrackedRequest) -> None:
        """Free the place of a request that is no longer here."""
        del self.in_flight[tracked.request_id]
        self.prefilled(tracked)
        adapter = tracked.request.adapter
        if adapter is not None:
            self._num_requests_of[adapter.digest] -= 1
            if not self._num_requests_of[adapter.digest]:
                del self._num_requests_of[adapter.digest]
            self._num_with_adapter -= 1
            self._sum_log_rank -= math.log2(max(1, adapter.rank))
            if not self._num_with_adapter:
                self._sum_log_rank = 0.0

    def hint(self, adapter: AdapterRef, max_hinted: int) -> bool:
        """Note that the worker is told to fetch an adapter; False if it has it or was told."""
        if self.tier(adapter.digest) is not ResidencyTier.NONE:
            return False
        while len(self._hinted) >= max_hinted:
            del self._hinted[next(iter(self._hinted))]
        self._hinted[adapter.digest] = None
        return True


class Fleet:
    """The attached workers."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._open: dict[str, Worker] = {}
        self.unable_since: float | None = None
        """Since when no worker takes requests at all; None while one does, and before the first event."""

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def open_workers(self) -> list[Worker]:
        """Workers with a free place."""
        return list(self._open.values())

    @property
    def has_open_worker(self) -> bool:
        """Whether some worker has a free place."""
        return bool(self._open)

    @property
    def accepting_workers(self) -> list[Worker]:
        """Workers that take requests, now or when a place is freed."""
        return [worker for worker in self._workers.values() if worker.window > 0]

    def get(self, worker_id: str) -> Worker | None:
        """The worker, if it is attached."""
        return self._workers.get(worker_id)

    def report(self, status: WorkerStatus, now: float, smoothing: float) -> None:
        """Take a report in; the first makes the worker known."""
        worker = self._workers.get(status.worker_id)
        if worker is None:
            worker = self._workers[status.worker_id] = Worker(status)
        worker.merge(status, now, smoothing)
        self.note_places(worker)
        self._note_ability(now)

    def set_lease(self, worker_id: str, *, is_live: bool, now: float) -> None:
        """An attached worker's lease ran out or came back; a worker that attaches has one."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.has_lease = is_live
            self.note_places(worker)
        self._note_ability(now)

    def remove(self, worker_id: str, now: float) -> Worker | None:
        """Forget a worker whose stream ended; returns it with what was in flight."""
        worker = self._workers.pop(worker_id, None)
        self._open.pop(worker_id, None)
        self._note_ability(now)
        return worker

    def note_places(self, worker: Worker) -> None:
        """Bring the list of open workers up to date after one's places changed."""
        if worker.num_free_places > 0:
            self._open[worker.worker_id] = worker
        else:
            self._open.pop(worker.worker_id, None)

    def note_time(self, now: float) -> None:
        """Begin counting the time without a worker, at the first event."""
        if self.unable_since is None:
            self._note_ability(now)

    def _note_ability(self, now: float) -> None:
        if any(worker.window > 0 for worker in self._workers.values()):
            self.unable_since = None
        elif self.unable_since is None:
            self.unable_since = now
