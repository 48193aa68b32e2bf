"""No unified memory: KV and adapters each have a share of the pool, and none lends to the other (S-LoRA's ablation)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.serve.variants.unified import Unified
from worker.adapters.residency import Residency
from worker.memory.layout import PageGeometry
from worker.memory.pool import PageKind, PagePool
from worker.types import HostedAdapter


@dataclass(frozen=True)
class StaticSplit(Unified):
    """A fixed share of the pages for adapters."""

    name: str = "static split"
    adapter_share: float = 0.25

    def pools(self, num_pages: int, geometry: PageGeometry, max_load_pages: int) -> tuple[PagePool, Residency]:
        """Two pools over one storage, KV's pages first."""
        num_kv_pages = num_pages - max(1, int(num_pages * self.adapter_share))
        adapters = AdapterPages(num_pages - num_kv_pages, num_kv_pages)
        return KvPages(num_kv_pages, adapters), SplitResidency(adapters, geometry, max_load_pages)


class AdapterPages(PagePool):
    """The pages behind KV's."""

    def __init__(self, num_pages: int, first_page: int) -> None:
        super().__init__(num_pages)
        self._first_page = first_page

    def allocate(self, count: int, kind: PageKind) -> tuple[int, ...]:
        """As `PagePool.allocate`."""
        return tuple(page + self._first_page for page in super().allocate(count, kind))

    def release(self, pages: Iterable[int], *, settled: bool = False) -> None:
        """As `PagePool.release`."""
        super().release([page - self._first_page for page in pages], settled=settled)

    def is_settled(self, pages: Iterable[int]) -> bool:
        """As `PagePool.is_settled`."""
        return super().is_settled([page - self._first_page for page in pages])


class KvPages(PagePool):
    """KV's pages; tells of the adapters' too, as an engine tells of its whole pool."""

    def __init__(self, num_pages: int, adapters: AdapterPages) -> None:
        self._adapters = adapters
        self._num_own = num_pages
        super().__init__(num_pages)

    @property
    def total_pages(self) -> int:
        """Of both shares."""
        return self._num_own + self._adapters.total_pages

    @property
    def free_pages(self) -> int:
        """Of KV's share."""
        return self._num_own - self.kv_pages

    @property
    def adapter_pages(self) -> int:
        """In the adapters' share."""
        return self._adapters.adapter_pages

    def settle(self) -> None:
        """Of both shares."""
        super().settle()
        self._adapters.settle()

    def check_integrity(self) -> None:
        """Of both shares."""
        super().check_integrity()
        self._adapters.check_integrity()


class SplitResidency(Residency):
    """Adapters that make room for each other alone."""

    @property
    def evictable_pages(self) -> int:
        """None that KV could have."""
        return 0

    def reclaim(self, count: int) -> int:  # noqa: ARG002 - as `Residency.reclaim`
        """Nothing, for KV."""
        return 0

    def _make_resident(self, adapter: HostedAdapter) -> Any:
        super().reclaim(len(adapter.host_pages))
        return super()._make_resident(adapter)
