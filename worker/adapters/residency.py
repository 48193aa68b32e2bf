"""Which adapters are in the pool, and who uses them.

An adapter in use stays. One that nobody uses stays too, as long as its pages are not needed; the least recently used
goes first, and one that a waiting sequence will need after all others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.memory.layout import PageGeometry
from worker.memory.pool import PageKind, PagePool
from worker.types import HostedAdapter, PoolResidency


@dataclass(frozen=True, slots=True)
class Load:
    """A copy to be done before a forward pass uses the adapter: `host_pages[i]` of the arena to page `pool_pages[i]`.

    With `after_step` it has to wait until the step in flight is done, which may still write to one of the pages.
    """

    digest: str
    host_pages: tuple[int, ...]
    pool_pages: tuple[int, ...]
    after_step: bool = False


@dataclass(slots=True)
class _Resident:
    pages: tuple[int, ...]
    num_users: int


class Residency:
    """The adapters in the pool, by digest, with counts of the sequences that use them.

    A copy is queued by `acquire` or `prefetch`, leaves with `take_loads`, whose caller does it in that order, and is
    done, or all but done, once `note_arrived` says so. Until it is done the host pages must stay: by the request of a
    sequence that uses the adapter or waits for it. An adapter whose last user leaves before its copy left is dropped on
    the spot. One may be evicted while it is copied: whoever gets its pages must wait for the copy.
    """

    def __init__(self, pool: PagePool, geometry: PageGeometry, max_queued_pages: int | None = None) -> None:
        """`max_queued_pages` bounds what is copied before one step; a single adapter may be larger, or see `hide`."""
        self._pool = pool
        self._geometry = geometry
        self._max_queued_pages = max_queued_pages
        self._hidden_pages = 0
        self._residents: dict[str, _Resident] = {}
        # The next to be evicted first, with the pool's count of settles when the last user left.
        self._idle: dict[str, int] = {}
        self._queued: dict[str, Load] = {}
        self._queued_pages = 0
        self._copying: set[str] = set()
        self._changes: list[PoolResidency] = []
        self._evictable_pages = 0

    @property
    def geometry(self) -> PageGeometry:
        """The size of a page."""
        return self._geometry

    @property
    def evictable_pages(self) -> int:
        """Pages of adapters that nobody uses."""
        return self._evictable_pages

    @property
    def num_resident(self) -> int:
        """Adapters in the pool."""
        return len(self._residents)

    @property
    def num_copying(self) -> int:
        """Adapters whose copies are not known to be done."""
        return len(self._queued) + len(self._copying)

    def is_resident(self, digest: str) -> bool:
        """Whether the adapter has pages in the pool."""
        return digest in self._residents

    def has_arrived(self, digest: str) -> bool:
        """Whether the adapter is in the pool, and its copy done."""
        return digest in self._residents and digest not in self._queued and digest not in self._copying

    def is_large(self, adapter: HostedAdapter) -> bool:
        """Whether it alone is more than what is to be copied before one step."""
        return self._max_queued_pages is not None and len(adapter.host_pages) > self._max_queued_pages

    def missing_pages(self, adapter: HostedAdapter) -> int:
        """Pages that the adapter would take from the pool."""
        return 0 if adapter.digest in self._residents else len(adapter.host_pages)

    def can_acquire(self, adapter: HostedAdapter) -> bool:
        """Whether `acquire` would succeed now."""
        missing = self.missing_pages(adapter)
        return self._may_queue(missing) and missing <= self._pool.free_pages + self._evictable_pages

    def acquire(self, adapter: HostedAdapter) -> bool:
        """Adds one user, making the adapter resident if it is not; false, and nothing done, if that cannot be now.

        It cannot while pages lack, or while enough copies are queued for the next step.
        Idle adapters are evicted for it, never one in use.
        """
        resident = self._residents.get(adapter.digest)
        if resident is None:
            if not self.can_acquire(adapter):
                return False
            resident = self._make_resident(adapter)
        elif resident.num_users == 0:
            del self._idle[adapter.digest]
            self._evictable_pages -= len(resident.pages)
        resident.num_users += 1
        return True

    def release(self, digest: str) -> None:
        """Takes one user away. The last one leaves the adapter idle, or drops it if it was not loaded yet."""
        resident = self._residents[digest]
        assert resident.num_users > 0, f"{digest} was released once too often"
        resident.num_users -= 1
        if resident.num_users > 0:
            return
        if self._unqueue(digest):
            del self._residents[digest]
            self._pool.release(resident.pages)
        else:
            self._make_idle(digest, resident)

    def touch(self, wanted: Sequence[HostedAdapter]) -> None:
        """Have idle adapters that are wanted evicted after all others, the first of them last."""
        for adapter in reversed(wanted):
            idle_since = self._idle.pop(adapter.digest, None)
            if idle_since is not None:
                self._idle[adapter.digest] = idle_since

    def prefetch(self, wanted: Sequence[HostedAdapter], keep_pages: int) -> None:
        """Makes adapters resident that nobody uses yet, in this order, until pages or the bound on copies end it.

        None of them takes pages of one before it, nor of one in use, and `keep_pages` that are free or that other idle
        adapters hold are left for whoever has to go on now.
        """
        self.touch(wanted)
        held = 0  # pages of those so far, as far as nobody uses them
        for adapter in wanted:
            resident = self._residents.get(adapter.digest)
            if resident is None:
                missing = len(adapter.host_pages)
                room = self._pool.free_pages + self._evictable_pages - held - keep_pages
                if missing > room or not self._may_queue(missing):
                    return
                resident = self._make_resident(adapter)
                self._make_idle(adapter.digest, resident)
            if resident.num_users == 0:
                held += len(resident.pages)

    def reclaim(self, count: int) -> int:
        """Evicts idle adapters, least recently used first, until `count` pages are free or none is idle.

        Returns:
            Pages freed.
        """
        free_before = self._pool.free_pages
        while self._pool.free_pages < count and self._idle:
            digest = next(iter(self._idle))
            idle_since = self._idle.pop(digest)
            pages = self._residents.pop(digest).pages
            self._evictable_pages -= len(pages)
            self._pool.release(pages, settled=idle_since < self._pool.num_settles)
            self._copying.discard(digest)
            if not self._unqueue(digest):
                self._changes.append(PoolResidency(digest, resident=False))
        return self._pool.free_pages - free_before

    def hide(self, num_pages: int) -> None:
        """So many pages are copied while the step in flight runs, so that as many may be queued until the next call."""
        self._hidden_pages = num_pages

    def pages_of(self, digest: str) -> tuple[int, ...]:
        """Pool pages of a resident adapter, in the order of its stream."""
        return self._residents[digest].pages

    def take_loads(self) -> tuple[Load, ...]:
        """The queued copies, which the caller does in this order: each before a forward pass that uses its adapter."""
        loads = tuple(self._queued.values())
        self._copying.update(self._queued)
        self._queued.clear()
        self._queued_pages = 0
        self._changes.extend(PoolResidency(load.digest, resident=True) for load in loads)
        return loads

    def note_arrived(self, digests: Iterable[str]) -> None:
        """The last copies of these adapters are done, or nearly; some may have left the pool since."""
        self._copying.difference_update(digests)

    def take_changes(self) -> tuple[PoolResidency, ...]:
        """What entered and left the pool since the last call, oldest first."""
        changes = tuple(self._changes)
        self._changes.clear()
        return changes

    def check_integrity(self) -> None:
        """Asserts that the adapters' pages are disjoint and all of the pool's adapter pages, and the counts true."""
        _assert_disjoint(resident.pages for resident in self._residents.values())
        held = sum(len(resident.pages) for resident in self._residents.values())
        assert held == self._pool.adapter_pages, f"adapters hold {held} pages, the pool {self._pool.adapter_pages}"
        idle = {digest for digest, resident in self._residents.items() if resident.num_users == 0}
        assert idle == set(self._idle), "an idle adapter was lost, or one in use can be evicted"
        assert self._evictable_pages == sum(len(self._residents[digest].pages) for digest in idle), "miscounted pages"
        for digest, load in self._queued.items():
            assert self._residents[digest].pages == load.pool_pages, f"the copy queued for {digest} goes astray"
        assert self._queued_pages == sum(len(load.pool_pages) for load in self._queued.values()), "miscounted copies"
        assert self._copying <= self._residents.keys(), "an adapter that is gone is still being copied"
        assert self._copying.isdisjoint(self._queued), "an adapter is copied twice"

    def _may_queue(self, num_pages: int) -> bool:
        """Whether a copy of so many pages may be queued; a single one always may."""
        if self._max_queued_pages is None or not (num_pages and self._queued):
            return True
        return self._queued_pages + num_pages <= max(self._max_queued_pages, self._hidden_pages)

    def _unqueue(self, digest: str) -> bool:
        """Drops the adapter's copy if it is still queued, and says whether it was."""
        load = self._queued.pop(digest, None)
        if load is None:
            return False
        self._queued_pages -= len(load.pool_pages)
        return True

    def _make_idle(self, digest: str, resident: _Resident) -> None:
        self._idle[digest] = self._pool.num_settles
        self._evictable_pages += len(resident.pages)

    def _make_resident(self, adapter: HostedAdapter) -> _Resident:
        num_pages = adapter.layout.num_pages(self._geometry)
        assert num_pages == len(adapter.host_pages), f"{adapter.digest} is hosted in another number of pages"
        self.reclaim(num_pages)
        resident = _Resident(self._pool.allocate(num_pages, PageKind.ADAPTER), num_users=0)
        self._residents[adapter.digest] = resident
        self._queued[adapter.digest] = Load(
            adapter.digest, adapter.host_pages, resident.pages, after_step=not self._pool.is_settled(resident.pages)
        )
        self._queued_pages += num_pages
        return resident


def _assert_disjoint(page_lists: Iterable[tuple[int, ...]]) -> None:
    seen: set[int] = set()
    for pages in page_lists:
        assert seen.isdisjoint(pages), "two adapters hold one page"
        seen.update(pages)
