"""One attached worker as the control plane sees it."""

import math
from collections.abc import Iterator

from control_plane.core.columns import FAILURE_HALF_LIFE_S, FleetColumns
from control_plane.core.estimators import PrefillRate
from control_plane.core.ledger import TrackedRequest
from control_plane.core.types import AdapterRef, ResidencyTier, WorkerStatus


class Worker:
    """What a worker reported, and what was sent to it since; it keeps its row of the fleet's columns true."""

    def __init__(self, status: WorkerStatus, columns: FleetColumns, max_promised: float = 0.0) -> None:
        self.worker_id = status.worker_id
        self.status = status
        self.row = columns.attach(status.worker_id)
        self.has_lease = True
        self.is_draining = False
        self.residency: dict[str, ResidencyTier] = {}
        self.in_flight: dict[str, TrackedRequest] = {}
        self.prefill_rate = PrefillRate()
        self._columns = columns
        self._num_requests_of: dict[str, int] = {}
        self._sum_log_rank = 0.0
        self._num_with_adapter = 0
        self._num_prefill_tokens = 0
        self._max_promised = max_promised
        # What the requests in flight are expected to hold at their ends: tokens of KV, and bytes of distinct adapters.
        self._num_final_tokens = 0.0
        self._adapter_bytes = 0
        self._hinted: dict[str, None] = {}
        self._num_failures, self._failed_at = 0.0, -math.inf
        self._is_attached = True
        self._note_identity(status, is_here=True)
        self._note()

    @property
    def window(self) -> int:
        """Most requests that the worker may hold; 0 while it is to get none."""
        return max(0, self.status.request_window) if self.has_lease and not self.is_draining else 0

    @property
    def promised(self) -> float:
        """How many of its pools the requests in flight are expected to hold at their ends; 0 if it told of none."""
        status = self.status
        pool_bytes = status.total_pages * status.page_size_bytes
        if pool_bytes <= 0 or status.block_size <= 0:
            return 0.0
        token_bytes = status.page_size_bytes / status.block_size
        return (self._num_final_tokens * token_bytes + self._adapter_bytes) / pool_bytes

    @property
    def has_room(self) -> bool:
        """Whether a place is free, and not all of the pool is promised."""
        is_promised = self._max_promised > 0 and self.promised >= self._max_promised
        return len(self.in_flight) < self.window and not is_promised

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
    def least_used_adapter(self) -> str:
        """The digest of the adapter that has fewest requests in flight; there is one."""
        return min(self._num_requests_of, key=lambda digest: (self._num_requests_of[digest], digest))

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

    def set_lease(self, *, is_live: bool) -> None:
        """The lease ran out or came back."""
        self.has_lease = is_live
        self._note()

    def set_drain(self, *, is_draining: bool) -> None:
        """An operator takes the worker out of service, or puts it back."""
        self.is_draining = is_draining
        self._note()

    def set_max_promised(self, max_promised: float) -> None:
        """How many of its pools may be promised to the ends of its requests; 0 for any number."""
        self._max_promised = max_promised
        self._note()

    def note_failure(self, now: float) -> None:
        """The worker failed or refused a request that another might have served."""
        self._num_failures = self.num_failures(now) + 1.0
        self._failed_at = now
        self._columns.forgiven_at[self.row] = now + FAILURE_HALF_LIFE_S * math.log2(self._num_failures)

    def num_failures(self, now: float) -> float:
        """How many requests it failed, each counting half as much after every FAILURE_HALF_LIFE_S."""
        return self._num_failures * math.exp2((self._failed_at - now) / FAILURE_HALF_LIFE_S)

    def merge(self, status: WorkerStatus, now: float, smoothing: float) -> None:
        """Take a report in."""
        changed = dict.fromkeys(digest for digest, _ in status.residency)
        if status.is_residency_snapshot:
            changed |= dict.fromkeys(self.residency)
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
        if _identity(status) != _identity(self.status):
            self._note_identity(self.status, is_here=False)
            self._note_identity(status, is_here=True)
        self.status = status
        for digest in changed:
            self._note_tier(digest)
        self._note_status(now)
        self._note()

    def take(self, tracked: TrackedRequest) -> float:
        """Count a request that is sent here; returns its share of what may be sent here."""
        promised = self.promised
        assert len(self.in_flight) < self.window, f"window of {self.worker_id} exceeded"
        self.in_flight[tracked.request_id] = tracked
        self._num_prefill_tokens += tracked.num_prefill_tokens
        tracked.is_prefilling = True
        self._num_final_tokens += tracked.num_final_tokens
        adapter = tracked.request.adapter
        if adapter is not None:
            self._num_requests_of[adapter.digest] = self._num_requests_of.get(adapter.digest, 0) + 1
            self._sum_log_rank += math.log2(max(1, adapter.rank))
            self._num_with_adapter += 1
            if self._num_requests_of[adapter.digest] == 1:
                self._adapter_bytes += adapter.size_bytes
                self._note_use(adapter.digest)
        self._note()
        of_pool = (self.promised - promised) / self._max_promised if self._max_promised else 0.0
        return max(1.0 / self.window, of_pool)

    def prefilled(self, tracked: TrackedRequest) -> None:
        """Count a request's prompt as computed; call before its first new token is added to its output."""
        if tracked.is_prefilling:
            self._num_prefill_tokens -= tracked.num_prefill_tokens
            tracked.is_prefilling = False
            if self._is_attached:
                self._columns.pending_prefill_tokens[self.row] = self.pending_prefill_tokens

    def release(self, tracked: TrackedRequest) -> None:
        """Free the place of a request that is no longer here."""
        del self.in_flight[tracked.request_id]
        self.prefilled(tracked)
        self._num_final_tokens = self._num_final_tokens - tracked.num_final_tokens if self.in_flight else 0.0
        adapter = tracked.request.adapter
        if adapter is not None:
            self._num_with_adapter -= 1
            self._sum_log_rank -= math.log2(max(1, adapter.rank))
            if not self._num_with_adapter:
                self._sum_log_rank = 0.0
            self._num_requests_of[adapter.digest] -= 1
            if not self._num_requests_of[adapter.digest]:
                del self._num_requests_of[adapter.digest]
                self._adapter_bytes -= adapter.size_bytes
                self._note_use(adapter.digest)
        self._note()

    def hint(self, adapter: AdapterRef, max_hinted: int) -> bool:
        """Note that the worker is told to fetch an adapter; False if it has it or was told."""
        if self.tier(adapter.digest) is not ResidencyTier.NONE:
            return False
        while len(self._hinted) >= max_hinted:
            oldest = next(iter(self._hinted))
            del self._hinted[oldest]
            self._note_tier(oldest)
        self._hinted[adapter.digest] = None
        self._note_tier(adapter.digest)
        return True

    def detach(self) -> None:
        """Give the row back: the worker is gone. What was in flight can still be released."""
        self._is_attached = False
        for digest in dict.fromkeys((*self.residency, *self._num_requests_of, *self._hinted)):
            self._columns.set_tier(digest, self.row, ResidencyTier.NONE)
            self._columns.set_used(digest, self.row, is_used=False)
        self._note_identity(self.status, is_here=False)
        self._columns.detach(self.row)

    def _note(self) -> None:
        """Bring what requests and leases change in the row up to date."""
        if not self._is_attached:
            return
        columns, row, window, num_in_flight = self._columns, self.row, self.window, len(self.in_flight)
        columns.has_lease[row] = self.has_lease
        columns.is_draining[row] = self.is_draining or self.status.request_window <= 0
        columns.window[row] = window
        columns.num_in_flight[row] = num_in_flight
        columns.num_adapters[row] = len(self._num_requests_of)
        columns.has_room[row] = self.has_room
        columns.load[row] = self.load
        columns.pending_prefill_tokens[row] = self.pending_prefill_tokens
        mean = self.mean_log2_rank
        columns.mean_log2_rank[row] = math.nan if mean is None else mean

    def _note_status(self, now: float) -> None:
        """Bring what the worker reports up to date."""
        columns, row, status = self._columns, self.row, self.status
        page_size, block_size = status.page_size_bytes, status.block_size
        has_told_sizes = page_size > 0 and block_size > 0
        columns.total_pages[row] = status.total_pages
        columns.pages_without_kv[row] = status.total_pages - status.kv_pages
        columns.page_size_bytes[row] = page_size if has_told_sizes else math.inf
        columns.block_size[row] = block_size if has_told_sizes else math.inf
        columns.pool_tokens[row] = status.total_pages * block_size
        columns.token_bytes[row] = page_size / block_size if has_told_sizes else 0.0
        columns.num_reported[row] = status.num_running + status.num_waiting
        columns.reported_at[row] = now
        is_known = status.total_pages > 0
        columns.free_share[row] = min(1.0, max(0.0, 1.0 - status.kv_pages / status.total_pages)) if is_known else 0.0
        rate = self.prefill_rate.tokens_per_s
        columns.prefill_tokens_per_s[row] = rate or 0.0
        columns.prefill_s_per_token[row] = 1.0 / rate if rate else 0.0

    def _note_identity(self, status: WorkerStatus, *, is_here: bool) -> None:
        """Put what the worker serves, its labels and its tenants in the columns, or take them out."""
        columns, row = self._columns, self.row
        columns.base_models.put(status.base_model, row, is_in=is_here)
        for label in status.labels:
            columns.labels.put(label, row, is_in=is_here)
        for tenant in status.tenants:
            columns.tenants.put(tenant, row, is_in=is_here)
        columns.is_restricted[row] = is_here and bool(status.tenants)

    def _note_use(self, digest: str) -> None:
        if not self._is_attached:
            return
        self._columns.set_used(digest, self.row, is_used=digest in self._num_requests_of)
        self._note_tier(digest)

    def _note_tier(self, digest: str) -> None:
        self._columns.set_tier(digest, self.row, self.tier(digest))


def _identity(status: WorkerStatus) -> tuple[object, ...]:
    return status.base_model, status.labels, status.tenants
