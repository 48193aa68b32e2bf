"""A host cache that does not hold every adapter changes no token, and holds what it may."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise

import pytest
import torch

from benchmarks.serve.engines import engine_of
from benchmarks.serve.host import Bringer, host_memory
from benchmarks.serve.options import Bounds
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.workload import Item
from worker.memory.layout import PageGeometry

TINY = SETUPS["tiny"]
GEOMETRY = PageGeometry(TINY.shape, 16)
PAGE_BYTES = 8192  # of both layers, in float32
PAGES = TINY.layout(1).num_pages(GEOMETRY)  # of an adapter of rank 8
LAYOUTS = {adapter: TINY.layout(1) for adapter in range(6)}


def _items(adapters: list[int | None]) -> list[Item]:
    return [Item(adapter, (5, 6, 7 + index), 4 + index % 3) for index, adapter in enumerate(adapters)]


def test_every_adapter_is_there_if_nothing_bounds_it() -> None:
    with host_memory(LAYOUTS, GEOMETRY, torch.float32, None) as memory:
        hosted = memory.fill()
        assert memory.allocate(0) is None, "nothing is left"
        first, second = (memory.arena.page(hosted[adapter].host_pages[0]) for adapter in (0, 1))
        assert not torch.equal(first, second)
        assert first.std() == pytest.approx(0.02, rel=0.1)
    pages = [page for one in hosted.values() for page in one.host_pages]
    assert len(set(pages)) == len(pages) == 6 * PAGES


def test_the_least_recently_used_makes_room() -> None:
    with _bringer(2 * PAGES) as bringer:
        order = []
        for index, adapter in enumerate((0, 1, 0, 2, 0, 1)):
            bringer.ask(str(index), _items([adapter])[0])
            order += _wait(bringer, 1)
            bringer.end(str(index))
        assert order == [str(index) for index in range(6)]
        assert bringer.num_brought == 4, "0, 1, 2 in the place of 1, and 1 in that of 2"


def test_what_is_used_stays_and_others_wait() -> None:
    with _bringer(2 * PAGES) as bringer:
        for index, item in enumerate(_items([0, 1, 2, None, 0])):
            bringer.ask(str(index), item)
        assert set(_wait(bringer, 4)) == {"0", "1", "3", "4"}
        assert bringer.has_work
        bringer.end("0")
        assert list(bringer.take_ready()) == [], "adapter 0 has another request"
        bringer.end("4")
        assert _wait(bringer, 1) == ["2"]
        assert not bringer.has_work
    assert not [thread for thread in threading.enumerate() if thread.name == "bringer"]


def test_it_ends_while_one_waits_for_room() -> None:
    with _bringer(PAGES) as bringer:
        bringer.ask("0", _items([0])[0])
        assert _wait(bringer, 1) == ["0"]
        bringer.ask("1", _items([1])[0])


@contextmanager
def _bringer(num_pages: int) -> Iterator[Bringer]:
    room = host_memory(LAYOUTS, GEOMETRY, torch.float32, num_pages * PAGE_BYTES)
    with room as memory, closing(Bringer(memory)) as bringer:
        yield bringer


def _wait(bringer: Bringer, count: int) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        names += [request.request_id for request in bringer.take_ready()]
    return names


def test_a_small_host_cache_changes_no_output() -> None:
    items = _items([index % 6 for index in range(30)] + [None])
    counts = []
    for host_bytes in (None, 2 * PAGES * PAGE_BYTES):
        bounds = Bounds(max_running=8, max_step_tokens=32, pool_bytes=80 * PAGE_BYTES, host_bytes=host_bytes)
        with engine_of(TINY, torch.device("cpu"), range(6), bounds) as server:
            run = server.run(items)
            counts.append([stream.num_tokens for stream in run.streams])
            assert all(before.seconds <= after.seconds for before, after in pairwise(run.moments))
    assert counts[0] == counts[1] == [item.num_output for item in items]
