"""Which adapters are in the pool, and who uses them.

An adapter in use stays. One that nobody uses stays too, as long as its pages are not needed; the least recently used
goes first.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from worker.memory.layout import PageGeometry
from worker.memory.pool import PageKind, PagePool
from worker.types import HostedAdapter, PoolResidency


@dataclass(frozen=True, slots=True)
class Load:
    """A copy to be done before the next forward pass: `host_pages[i]` of the arena to page `pool_pages[i]`.

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

    A copy is queued by `acquire` and leaves with `take_loads`, whose caller does it before the next forward pass. An
    adapter whose last user leaves before that is dropped on the spot. So every idle adapter is loaded, and a queued
    copy always belongs to an adapter in use, which holds both its pool pages and, by its request, its host pages.
    """

    def __init__(self, pool: PagePool, geometry: PageGeometry, max_queued_pages: int | None = None) -> None:
        """`max_queued_pages` bounds what is copied before one step; a single adapter may be larger."""
        self._pool = pool
        self._geometry = geometry
        self._max_queued_pages = max_queued_pages
        self._residents: dict[str, _Resident] = {}
        # In the order in which their last users left, with the pool's count of settles then.
        self._idle: dict[str, int] = {}
        self._queued: dict[str, Load] = {}
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

    def is_resident(self, digest: str) -> bool:
        """Whether the adapter has pages in the pool."""
        return digest in self._residents

    def missing_pages(self, adapter: HostedAdapter) -> int:
        """Pages that the adapter would take from the pool."""
        return 0 if adapter.digest in self._residents else adapter.layout.num_pages(self._geometry)

    def can_acquire(self, adapter: HostedAdapter) -> bool:
        """Whether `acquire` would succeed now."""
        missing = self.missing_pages(adapter)
        if missing and self._queued and self._max_queued_pages is not None:
            queued = sum(len(load.pool_pages) for load in self._queued.values())
            if queued + missing > self._max_queued_pages:
                return False
        return missing <= self._pool.free_pages + self._evictable_pages

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
        if self._queued.pop(digest, None) is not None:
            del self._residents[digest]
            self._pool.release(resident.pages)
        else:
            self._idle[digest] = self._pool.num_settles
            self._evictable_pages += len(resident.pages)

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
            self._changes.append(PoolResidency(digest, resident=False))
        return self._pool.free_pages - free_before

    def pages_of(self, digest: str) -> tuple[int, ...]:
        """Pool pages of a resident adapter, in the order of its stream."""
        return self._residents[digest].pages

    def take_loads(self) -> tuple[Load, ...]:
        """The queued copies, which the caller does before the next forward pass; from here on they count as done."""
        loads = tuple(self._queued.values())
        self._queued.clear()
        self._changes.extend(PoolResidency(load.digest, resident=True) for load in loads)
        return loads

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
            assert self._residents[digest].num_users > 0, f"a copy is queued for {digest}, which nobody uses"
            assert self._residents[digest].pages == load.pool_pages, f"the copy queued for {digest} goes astray"

    def _make_resident(self, adapter: HostedAdapter) -> _Resident:
        num_pages = adapter.layout.num_pages(self._geometry)
        assert num_pages == len(adapter.host_pages), f"{adapter.digest} is hosted in another number of pages"
        self.reclaim(num_pages)
        resident = _Resident(self._pool.allocate(num_pages, PageKind.ADAPTER), num_users=0)
        self._residents[adapter.digest] = resident
        self._queued[adapter.digest] = Load(
            adapter.digest, adapter.host_pages, resident.pages, after_step=not self._pool.is_settled(resident.pages)
        )
        return resident


def _assert_disjoint(page_lists: Iterable[tuple[int, ...]]) -> None:
    seen: set[int] = set()
    for pages in page_lists:
        assert seen.isdisjoint(pages), "two adapters hold one page"
        seen.update(pages)
