"""Which adapters are in the host arena, in which pages, and who leases them."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.memory.pool import PageKind, PagePool
from worker.types import HostedAdapter


@dataclass(slots=True)
class _Hosted:
    adapter: HostedAdapter
    num_leases: int


class HostIndex:
    """The arena's pages under one free list, and the adapters in them by digest.

    An adapter that is leased stays. One that is not stays until its pages are needed; the least recently used goes
    first. `on_change(digest, hosted)` is called when an adapter enters or leaves.
    """

    def __init__(self, num_pages: int, on_change: Callable[[str, bool], None]) -> None:
        self._pages = PagePool(num_pages)
        self._on_change = on_change
        self._hosted: dict[str, _Hosted] = {}
        self._idle: dict[str, None] = {}  # in the order in which their last leases ended
        self._idle_pages = 0

    @property
    def total_pages(self) -> int:
        """Pages of the arena."""
        return self._pages.total_pages

    @property
    def free_pages(self) -> int:
        """Pages that hold no adapter."""
        return self._pages.free_pages

    @property
    def digests(self) -> tuple[str, ...]:
        """The adapters in the arena."""
        return tuple(self._hosted)

    def lease(self, digest: str) -> HostedAdapter | None:
        """Adds a lease; nothing if the adapter is not there."""
        hosted = self._hosted.get(digest)
        if hosted is None:
            return None
        if hosted.num_leases == 0:
            del self._idle[digest]
            self._idle_pages -= len(hosted.adapter.host_pages)
        hosted.num_leases += 1
        return hosted.adapter

    def release(self, digest: str) -> None:
        """Ends a lease; the adapter of the last one can be evicted."""
        hosted = self._hosted[digest]
        assert hosted.num_leases > 0, f"the lease of {digest} ended once too often"
        hosted.num_leases -= 1
        if hosted.num_leases == 0:
            self._make_idle(hosted.adapter)

    def touch(self, digest: str) -> bool:
        """Whether the adapter is there; counts as a use if so."""
        if digest in self._idle:
            del self._idle[digest]
            self._idle[digest] = None
        return digest in self._hosted

    def allocate(self, count: int) -> tuple[int, ...] | None:
        """Takes `count` pages, evicting idle adapters as needed; nothing, and nothing evicted, if pages lack."""
        if count > self._pages.free_pages + self._idle_pages:
            return None
        while self._pages.free_pages < count:
            self._evict(next(iter(self._idle)))
        return self._pages.allocate(count, PageKind.ADAPTER)

    def give_back(self, pages: tuple[int, ...]) -> None:
        """Returns pages that `allocate` gave and no adapter was put in."""
        self._pages.release(pages)

    def add(self, adapter: HostedAdapter, num_leases: int) -> None:
        """Puts an adapter in pages that `allocate` gave, with `num_leases` leases."""
        assert adapter.digest not in self._hosted, f"{adapter.digest} is hosted twice"
        self._hosted[adapter.digest] = _Hosted(adapter, num_leases)
        if num_leases == 0:
            self._make_idle(adapter)
        self._on_change(adapter.digest, True)

    def check_integrity(self) -> None:
        """Asserts that adapters hold disjoint pages in use, and that exactly those without a lease can be evicted."""
        self._pages.check_integrity()
        pages = [page for hosted in self._hosted.values() for page in hosted.adapter.host_pages]
        assert len(pages) == len(set(pages)) <= self._pages.adapter_pages, "two adapters hold one page, or a free one"
        idle = {digest for digest, hosted in self._hosted.items() if hosted.num_leases == 0}
        assert idle == set(self._idle), "an idle adapter was lost, or a leased one can be evicted"
        assert self._idle_pages == sum(len(self._hosted[digest].adapter.host_pages) for digest in idle)

    def _make_idle(self, adapter: HostedAdapter) -> None:
        self._idle[adapter.digest] = None
        self._idle_pages += len(adapter.host_pages)

    def _evict(self, digest: str) -> None:
        del self._idle[digest]
        pages = self._hosted.pop(digest).adapter.host_pages
        self._idle_pages -= len(pages)
        self._pages.release(pages)
        self._on_change(digest, False)
