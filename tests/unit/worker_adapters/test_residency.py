import pytest
import torch
from adapters_for_tests import GEOMETRY, SHAPE, hosted

from worker.adapters.loader import HostLoader
from worker.adapters.residency import Load, Residency
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.pool import PageKind, PagePool
from worker.memory.storage import PageStorage
from worker.types import HostedAdapter, PoolResidency

A = hosted("a", num_ranks=4, first_host_page=0)  # 2 pages
B = hosted("b", num_ranks=4, first_host_page=2)
C = hosted("c", num_ranks=6, first_host_page=4)  # 3 pages


def loaded(residency: Residency, *adapters: object) -> None:
    """Brings adapters in and leaves them idle, the first one the least recently used."""
    for adapter in adapters:
        assert residency.acquire(adapter)
    residency.take_loads()
    for adapter in adapters:
        residency.release(adapter.digest)
    residency.take_changes()


def test_an_adapter_is_loaded_once_for_all_its_users() -> None:
    residency = Residency(PagePool(8), GEOMETRY)
    assert residency.acquire(A)
    assert residency.acquire(A)
    assert residency.take_loads() == (Load("a", (0, 1), residency.pages_of("a")),)
    assert residency.take_loads() == ()
    residency.release("a")
    residency.release("a")
    assert residency.acquire(A)
    assert residency.take_loads() == ()
    assert residency.take_changes() == (PoolResidency("a", resident=True),)


def test_the_least_recently_used_goes_first() -> None:
    residency = Residency(PagePool(6), GEOMETRY)
    loaded(residency, A, B)
    loaded(residency, A)
    assert residency.acquire(C)
    assert not residency.is_resident("b")
    assert residency.is_resident("a")
    assert residency.take_changes() == (PoolResidency("b", resident=False),)


def test_an_adapter_in_use_is_never_evicted() -> None:
    pool = PagePool(6)
    residency = Residency(pool, GEOMETRY)
    assert residency.acquire(A)
    loaded(residency, B)
    assert residency.reclaim(6) == 2
    assert residency.is_resident("a")
    assert not residency.is_resident("b")
    assert pool.free_pages == 4


def test_nothing_is_evicted_in_vain() -> None:
    pool = PagePool(4)
    residency = Residency(pool, GEOMETRY)
    loaded(residency, A)
    pool.allocate(2, PageKind.KV)
    assert not residency.acquire(C)
    assert residency.is_resident("a")
    assert residency.evictable_pages == 2


def test_a_copy_never_lands_on_pages_that_changed_hands() -> None:
    """An adapter whose only sequence goes before its copy was done must not be copied over its pages' next owner."""
    pool = PagePool(3)
    residency = Residency(pool, GEOMETRY)
    assert residency.acquire(A)
    pages_of_a = residency.pages_of("a")
    residency.release("a")
    assert residency.acquire(C)
    assert set(pages_of_a) < set(residency.pages_of("c"))
    assert [load.digest for load in residency.take_loads()] == ["c"]
    assert residency.take_changes() == (PoolResidency("c", resident=True),)


def test_a_dropped_adapter_is_copied_from_where_it_is_hosted_next() -> None:
    residency = Residency(PagePool(3), GEOMETRY)
    assert residency.acquire(A)
    residency.release("a")
    assert residency.acquire(hosted("a", num_ranks=4, first_host_page=7))
    assert [load.host_pages for load in residency.take_loads()] == [(7, 8)]


def test_one_release_too_many_asserts() -> None:
    residency = Residency(PagePool(3), GEOMETRY)
    loaded(residency, A)
    with pytest.raises(AssertionError, match="once too often"):
        residency.release("a")


def test_the_loader_copies_all_layers_of_every_page(tmp_path) -> None:
    arena = HostArena.create(ArenaFile.create(tmp_path), 9, GEOMETRY, torch.float32)
    storage = PageStorage(GEOMETRY, 8, torch.float32, "cpu")
    for page in range(9):
        for layer in range(SHAPE.num_layers):
            arena.page(page)[layer] = 10 * page + layer
    HostLoader(arena, storage).perform([Load("a", (8, 3), (1, 6)), Load("b", (4,), (0,))])
    assert storage.pages[:, :, 0].tolist() == [[40, 80, 0, 0, 0, 0, 30, 0], [41, 81, 0, 0, 0, 0, 31, 0]]


def of_pages(name: str, num_pages: int) -> HostedAdapter:
    return hosted(name, num_ranks=2 * num_pages, first_host_page=0)


def test_copies_before_one_step_are_bounded_but_for_a_single_large_one() -> None:
    pool = PagePool(40)
    residency = Residency(pool, GEOMETRY, max_queued_pages=5)
    large, small, other = of_pages("large", 6), of_pages("small", 2), of_pages("other", 3)
    assert residency.acquire(large)
    assert not residency.acquire(small)
    residency.take_loads()
    assert residency.acquire(small)
    assert residency.acquire(other)
    assert residency.acquire(small), "no copy is needed for a second user"
    assert not residency.acquire(of_pages("more", 1))
    assert {load.digest for load in residency.take_loads()} == {"small", "other"}
    assert residency.acquire(of_pages("more", 1))


def test_more_may_be_copied_where_a_step_hides_more() -> None:
    residency = Residency(PagePool(40), GEOMETRY, max_queued_pages=3)
    residency.hide(5)
    assert residency.acquire(of_pages("a", 3))
    assert residency.acquire(of_pages("b", 2))
    assert not residency.acquire(of_pages("c", 1))
    assert residency.is_large(of_pages("large", 4)), "whatever this step hides: it has to be there before it is used"
    residency.take_loads()
    residency.hide(0)
    assert residency.acquire(of_pages("c", 2))
    assert not residency.acquire(of_pages("d", 2)), "the bound that is always there"


def test_a_copy_waits_for_the_step_that_may_still_write_to_its_pages() -> None:
    pool = PagePool(6)
    residency = Residency(pool, GEOMETRY)
    first = pool.allocate(4, PageKind.KV)
    pool.settle()
    pool.release(first[:2])
    assert residency.acquire(of_pages("hot", 2))
    assert residency.acquire(of_pages("cold", 2))
    hot, cold = residency.take_loads()
    assert hot.pool_pages == first[:2]
    assert hot.after_step
    assert not cold.after_step
    residency.release("hot")
    pool.settle()
    residency.reclaim(3)
    pool.settle()
    assert residency.acquire(of_pages("next", 2))
    (load,) = residency.take_loads()
    assert not load.after_step


def test_pages_of_an_adapter_that_was_long_idle_are_free_for_a_copy_at_once() -> None:
    pool = PagePool(4)
    residency = Residency(pool, GEOMETRY)
    loaded(residency, of_pages("old", 2))
    pool.settle()
    loaded(residency, of_pages("fresh", 2))
    assert residency.acquire(of_pages("first", 2))
    assert residency.acquire(of_pages("second", 2))
    first, second = residency.take_loads()
    assert not first.after_step
    assert second.after_step
