"""The page pool: page ids, who holds them, and how often.

Pure book-keeping. One byte for each page says what it holds, so a page cannot be in two sets, and a run of free pages
is a run of zero bytes, which `bytearray.find` finds at the speed of memory.
"""

from collections.abc import Iterable
from enum import IntEnum

from worker.memory.errors import OutOfPages


class PageKind(IntEnum):
    """What a page in use holds."""

    KV = 1
    ADAPTER = 2


_FREE = 0


class PagePool:
    """Page ids `[0, num_pages)` under one free list, with reference counts.

    An allocation takes the lowest run of free pages that holds it whole, so that adapters are usually contiguous, and
    the lowest free pages if there is no such run.
    """

    def __init__(self, num_pages: int) -> None:
        assert num_pages > 0, "a pool needs pages"
        self._kinds = bytearray(num_pages)
        self._references = [0] * num_pages
        self._num_pages = {PageKind.KV: 0, PageKind.ADAPTER: 0}
        self._lowest_free = 0  # no page below it is free
        self._unsettled: set[int] = set()
        self._num_settles = 0

    @property
    def total_pages(self) -> int:
        """All pages."""
        return len(self._kinds)

    @property
    def free_pages(self) -> int:
        """Pages that nothing holds."""
        return self.total_pages - self.kv_pages - self.adapter_pages

    @property
    def kv_pages(self) -> int:
        """Pages that hold KV."""
        return self._num_pages[PageKind.KV]

    @property
    def adapter_pages(self) -> int:
        """Pages that hold adapters' weights."""
        return self._num_pages[PageKind.ADAPTER]

    def allocate(self, count: int, kind: PageKind) -> tuple[int, ...]:
        """Takes `count` free pages, each with one reference.

        Raises:
            OutOfPages: fewer are free; none was taken.
        """
        assert count >= 0, "a negative number of pages"
        if count > self.free_pages:
            raise OutOfPages(f"{count} pages were asked for and {self.free_pages} are free")
        if count == 0:
            return ()
        pages = self._find_free(count)
        for page in pages:
            self._kinds[page] = kind
            self._references[page] = 1
        self._num_pages[kind] += count
        if pages[0] == self._lowest_free:
            self._lowest_free = pages[-1] + 1 if pages[-1] - pages[0] == count - 1 else pages[0] + 1
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """Adds one reference to each of `pages`, all of them in use."""
        for page in pages:
            assert self._kinds[page] != _FREE, f"page {page} is free and cannot be shared"
            self._references[page] += 1

    def release(self, pages: Iterable[int], *, settled: bool = False) -> None:
        """Takes one reference from each of `pages`; a page without references is free.

        With `settled`, no step that runs on the device may still write to them.
        """
        for page in pages:
            assert self._kinds[page] != _FREE, f"page {page} was released once too often"
            self._references[page] -= 1
            if self._references[page] == 0:
                self._num_pages[PageKind(self._kinds[page])] -= 1
                self._kinds[page] = _FREE
                self._lowest_free = min(self._lowest_free, page)
                if not settled:
                    self._unsettled.add(page)

    @property
    def num_settles(self) -> int:
        """How often `settle` was called."""
        return self._num_settles

    def settle(self) -> None:
        """Note that what the device was given before the last releases is done."""
        self._unsettled.clear()
        self._num_settles += 1

    def is_settled(self, pages: Iterable[int]) -> bool:
        """Whether no step that runs on the device may still write to any of `pages`."""
        return self._unsettled.isdisjoint(pages)

    def check_integrity(self) -> None:
        """Asserts that free + KV + adapters = all, and that exactly the pages in use have references."""
        for kind, num_pages in self._num_pages.items():
            assert self._kinds.count(kind) == num_pages, f"{kind.name} pages are miscounted"
        assert self._kinds.count(_FREE) == self.free_pages, "pages of no kind"
        assert min(self._references) >= 0, "a page has fewer than no references"
        assert list(map(bool, self._kinds)) == list(map(bool, self._references)), "a page is in use and free at once"
        assert self._kinds.find(_FREE, 0, self._lowest_free) == -1, "a free page was lost"

    def _find_free(self, count: int) -> tuple[int, ...]:
        start = self._kinds.find(bytes(count), self._lowest_free)
        if start >= 0:
            return tuple(range(start, start + count))
        pages = []
        page = self._lowest_free - 1
        for _ in range(count):
            page = self._kinds.find(_FREE, page + 1)
            pages.append(page)
        return tuple(pages)
