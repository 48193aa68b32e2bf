import pytest

from worker.memory.errors import OutOfPages
from worker.memory.pool import PageKind, PagePool


def test_counts_follow_allocations() -> None:
    pool = PagePool(10)
    pool.allocate(3, PageKind.KV)
    pool.allocate(2, PageKind.ADAPTER)
    assert (pool.total_pages, pool.free_pages, pool.kv_pages, pool.adapter_pages) == (10, 5, 3, 2)
    pool.check_integrity()


def test_takes_the_lowest_run_that_fits_whole() -> None:
    pool = PagePool(12)
    pool.allocate(12, PageKind.KV)
    pool.release((1, 4, 5, 8, 9, 10))
    assert pool.allocate(3, PageKind.ADAPTER) == (8, 9, 10)
    assert pool.allocate(1, PageKind.KV) == (1,)
    assert pool.allocate(2, PageKind.ADAPTER) == (4, 5)


def test_takes_pieces_when_no_run_fits() -> None:
    pool = PagePool(8)
    pool.allocate(8, PageKind.KV)
    pool.release((6, 1, 3))
    assert pool.allocate(3, PageKind.ADAPTER) == (1, 3, 6)
    pool.check_integrity()


def test_all_or_nothing() -> None:
    pool = PagePool(4)
    pool.allocate(2, PageKind.KV)
    with pytest.raises(OutOfPages, match="3 pages were asked for and 2 are free"):
        pool.allocate(3, PageKind.KV)
    assert pool.free_pages == 2
    assert pool.allocate(0, PageKind.KV) == ()


def test_a_shared_page_is_free_after_its_last_release() -> None:
    pool = PagePool(4)
    pages = pool.allocate(2, PageKind.KV)
    pool.share(pages[:1])
    pool.release(pages)
    assert (pool.free_pages, pool.kv_pages) == (3, 1)
    pool.release(pages[:1])
    assert pool.free_pages == 4


@pytest.mark.parametrize("misuse", ["release", "share"])
def test_misuse_of_a_free_page_asserts(misuse: str) -> None:
    pool = PagePool(4)
    with pytest.raises(AssertionError, match="page 2"):
        getattr(pool, misuse)((2,))


def test_integrity_check_finds_a_lost_page() -> None:
    pool = PagePool(4)
    (page,) = pool.allocate(1, PageKind.KV)
    pool._kinds[page] = 0
    with pytest.raises(AssertionError, match="miscounted"):
        pool.check_integrity()
