"""The fleet as columns: one row for each worker, kept up to date as things happen.

Whatever placement asks is asked of all workers at once, so no decision touches a worker's object.
"""

from bisect import bisect_left
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from control_plane.core.demand import Demand, ReplicationSettings
from control_plane.core.homes import number_of
from control_plane.core.predictor import FirstTokenPredictor
from control_plane.core.prefixes import PrefixMemory
from control_plane.core.rows import Bools, Floats, Ints, Rows, RowSets
from control_plane.core.types import ResidencyTier

FAILURE_HALF_LIFE_S = 30.0

_FIRST_ROWS = 16

_COLUMNS: dict[str, tuple[type, float]] = {
    "is_attached": (np.bool_, False),
    "has_lease": (np.bool_, False),
    "is_draining": (np.bool_, False),
    "has_room": (np.bool_, False),
    "is_restricted": (np.bool_, False),
    "window": (np.int64, 0),
    "num_in_flight": (np.int64, 0),
    "num_adapters": (np.int64, 0),
    "num_reported": (np.int64, 0),
    "pending_prefill_tokens": (np.float64, 0.0),
    "total_pages": (np.float64, 0.0),
    "pages_without_kv": (np.float64, 0.0),
    "page_size_bytes": (np.float64, np.inf),
    "block_size": (np.float64, np.inf),
    "pool_tokens": (np.float64, 0.0),
    "token_bytes": (np.float64, 0.0),
    "load": (np.float64, 1.0),
    "free_share": (np.float64, 0.0),
    "mean_log2_rank": (np.float64, np.nan),
    "prefill_tokens_per_s": (np.float64, 0.0),
    "prefill_s_per_token": (np.float64, 0.0),
    "reported_at": (np.float64, 0.0),
    "numbers": (np.uint64, 0),
    "forgiven_at": (np.float64, -np.inf),
}


class TierLevel(IntEnum):
    """Residency tiers as numbers, nearer to the arithmetic is larger."""

    NONE = 0
    HOST = 1
    POOL = 2


class FleetColumns:
    """What placement may know of the workers. A worker keeps its row while it is attached; then another may get it.

    All columns are of one length, and a row without a worker has a window of 0. Workers write their own rows.
    """

    is_attached: Bools
    has_lease: Bools
    is_draining: Bools
    """An operator marked the worker, or it takes itself out of service: its own window is 0."""
    has_room: Bools
    """A place is free, not all of the pool is promised, the lease is there, and the worker is not draining."""
    is_restricted: Bools
    """Only some tenants may use the worker."""
    window: Ints
    """Most requests that the worker may hold; 0 while it is to get none."""
    num_in_flight: Ints
    """Our requests there."""
    num_adapters: Ints
    """Distinct adapters among them."""
    num_reported: Ints
    """Requests running and waiting there, everybody's, as last reported."""
    pending_prefill_tokens: Floats
    total_pages: Floats
    """0 if the worker has not told."""
    pages_without_kv: Floats
    page_size_bytes: Floats
    """Infinite, as is `block_size`, if the worker has not told both: whatever is to fit then takes no page."""
    block_size: Floats
    """Tokens whose KV a page holds."""
    pool_tokens: Floats
    """Tokens whose KV the pool holds; 0 if the worker has not told."""
    token_bytes: Floats
    """Bytes of a token's KV; 0 if the worker has not told."""
    load: Floats
    """Share of the window that is taken; 1 where the window is 0."""
    free_share: Floats
    """Share of the page pool that holds no KV; 0 where the pool is not known."""
    mean_log2_rank: Floats
    """Mean log2 of the adapter ranks in flight; NaN if there are none."""
    prefill_tokens_per_s: Floats
    """0 before it was measured."""
    prefill_s_per_token: Floats
    """Its inverse; 0 as well before it was measured."""
    reported_at: Floats
    numbers: npt.NDArray[np.uint64]
    """What stands for the worker in `homes`."""
    forgiven_at: Floats
    """When the worker's failures will count as one, or did; half are forgotten every FAILURE_HALF_LIFE_S."""

    def __init__(self) -> None:
        for name, (kind, empty) in _COLUMNS.items():
            setattr(self, name, np.full(_FIRST_ROWS, empty, dtype=kind))
        self._ids: list[str] = [""] * _FIRST_ROWS
        self._free = list(range(_FIRST_ROWS))[::-1]
        self._sorted_ids: list[str] = []
        self._sorted_rows: list[int] = []
        self._in_host: RowSets[str] = RowSets()
        self._in_pool: RowSets[str] = RowSets()
        # The last answer of `tiers`, which several scorers ask for in one decision.
        self._last_tiers: tuple[str, Rows] | None = None
        self._users: RowSets[str] = RowSets()
        self.base_models: RowSets[str] = RowSets()
        """Rows by what the worker serves."""
        self.labels: RowSets[tuple[str, str]] = RowSets()
        """Rows by label, as key and value."""
        self.tenants: RowSets[str] = RowSets()
        """Rows by the tenants that a restricted worker is for."""
        self.prefixes = PrefixMemory()
        self.demand = Demand(ReplicationSettings())
        self.predictor = FirstTokenPredictor()
        self.order: Rows = np.zeros(0, dtype=np.intp)
        """The rows that have a worker, by worker id."""

    @property
    def num_rows(self) -> int:
        """The length of every column."""
        return len(self._ids)

    def worker_id(self, row: int) -> str:
        """Whose row it is."""
        return self._ids[row]

    def attach(self, worker_id: str) -> int:
        """A row for a worker that has none."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        self._ids[row] = worker_id
        self.is_attached[row] = True
        self.numbers[row] = number_of(worker_id)
        self.prefixes.attach(row)
        index = bisect_left(self._sorted_ids, worker_id)
        self._sorted_ids.insert(index, worker_id)
        self._sorted_rows.insert(index, row)
        self.order = np.array(self._sorted_rows, dtype=np.intp)
        return row

    def detach(self, row: int) -> None:
        """Give a row back; its adapters, labels and tenants were taken out."""
        for name, (_, empty) in _COLUMNS.items():
            getattr(self, name)[row] = empty
        self.prefixes.detach(row)
        index = bisect_left(self._sorted_ids, self._ids[row])
        del self._sorted_ids[index], self._sorted_rows[index]
        self.order = np.array(self._sorted_rows, dtype=np.intp)
        self._ids[row] = ""
        self._free.append(row)

    def set_tier(self, digest: str, row: int, tier: ResidencyTier) -> None:
        """Note where an adapter is on a worker."""
        self._last_tiers = None
        self._in_host.put(digest, row, is_in=tier is ResidencyTier.HOST)
        self._in_pool.put(digest, row, is_in=tier is ResidencyTier.POOL)

    def set_used(self, digest: str, row: int, *, is_used: bool) -> None:
        """Note whether a request in flight on a worker uses an adapter."""
        self._users.put(digest, row, is_in=is_used)

    def using(self, digest: str) -> Bools:
        """Whether each worker has requests in flight for an adapter."""
        return self._users.mask(digest, self.num_rows)

    def has_user_with_room(self, digest: str) -> bool:
        """Whether a worker with a free place has requests in flight for an adapter."""
        rows = self._users.of(digest)
        return rows is not None and bool(self.has_room[rows].any())

    def tiers(self, digest: str) -> Rows:
        """Where an adapter is on each worker, as `TierLevel`, to look up by; to be read, not changed."""
        if self._last_tiers is not None and self._last_tiers[0] == digest:
            return self._last_tiers[1]
        found = np.zeros(self.num_rows, dtype=np.intp)
        for level, sets in (TierLevel.HOST, self._in_host), (TierLevel.POOL, self._in_pool):
            rows = sets.of(digest)
            if rows is not None:
                found[rows] = level
        self._last_tiers = (digest, found)
        return found

    def _grow(self) -> None:
        old = self.num_rows
        self._last_tiers = None
        for name, (kind, empty) in _COLUMNS.items():
            column: npt.NDArray[np.generic] = np.full(2 * old, empty, dtype=kind)
            column[:old] = getattr(self, name)
            setattr(self, name, column)
        self._ids += [""] * old
        self._free = list(range(old, 2 * old))[::-1]
