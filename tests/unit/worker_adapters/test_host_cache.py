"""The host cache: one load for all who wait, leases that hold, and cancellation at every stage."""

import asyncio
import threading
from pathlib import Path

import pytest
import torch
from adapters_for_tests import BASE_MODEL, GEOMETRY, canonical_file, layout_of, ref_to, tensors_of

from worker.adapters import host_cache
from worker.adapters.errors import AdapterCorrupt, AdapterNotFound, AdapterTooLarge, HostCacheFull
from worker.adapters.host_cache import HostCache, HostCacheLimits
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import AdapterLayout
from worker.types import AdapterRef

NUM_PAGES = 6
LIMITS = HostCacheLimits(max_loads=3, max_prefetches=2, room_timeout_seconds=30)


def adapter_file(num_ranks: int, seed: int) -> bytes:
    """q of layer 0 in ranks of 28 elements; pages hold 64."""
    return canonical_file(tensors_of(layout_of((num_ranks, 0, 0, 0, 0, 0, 0), (0,) * 7), seed))


FILES = {name: adapter_file(4, seed) for seed, name in enumerate("abcdef")}  # 2 pages each
FILES["large"] = adapter_file(13, 7)  # 6 pages
FILES["too-large"] = adapter_file(14, 8)  # 7 pages
REFS = {name: ref_to(data, f"team/{name}") for name, data in FILES.items()}
A, B, C, D = (REFS[name] for name in "abcd")


class Source:
    """A store whose answers wait for `open`, if it is closed."""

    def __init__(self) -> None:
        self.files = {REFS[name].digest: data for name, data in FILES.items()}
        self.fetched: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def fetch(self, ref: AdapterRef) -> bytes:
        self.fetched.append(ref.adapter_id)
        self.asked.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(ref.adapter_id)
            raise
        if ref.digest not in self.files:
            raise AdapterNotFound("the adapter store has no such weights")
        return self.files[ref.digest]


class House:
    """A cache with its arena, source and reported changes."""

    def __init__(self, folder: Path, limits: HostCacheLimits = LIMITS) -> None:
        self.source = Source()
        self.arena = HostArena.create(ArenaFile.create(folder), NUM_PAGES, GEOMETRY, torch.float32)
        self.changes: list[tuple[str, bool]] = []
        self.cache = HostCache(self.arena, GEOMETRY, BASE_MODEL, self.source, limits, self.note_change)

    def note_change(self, digest: str, hosted: bool) -> None:
        self.changes.append((digest, hosted))

    def close_source(self) -> None:
        self.source.open.clear()
        self.source.asked.clear()

    def holds(self, *names: str) -> bool:
        self.cache.check_integrity()
        return set(self.cache.digests) == {REFS[name].digest for name in names}

    def rows_of_q(self, lease: host_cache.HostLease) -> torch.Tensor:
        stream = torch.cat([self.arena.page(page)[0] for page in lease.adapter.host_pages])
        return stream[: lease.adapter.layout.ranks[0][0] * 12].view(-1, 12)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


async def settle() -> None:
    """Lets everything that can run without the outside do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def wait_until(condition) -> None:
    """Runs the loop until threads and tasks have brought the condition about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is awaited here is the cache's inner state, which has no event
            await asyncio.sleep(0)


async def test_loads_once_and_then_answers_from_memory(house) -> None:
    assert house.cache.get_hosted(A.digest) is None
    lease = await house.cache.get(A)
    assert house.cache.get_hosted(A.digest).adapter == lease.adapter
    again = await house.cache.get(A)
    assert house.source.fetched == ["team/a"]
    assert again.adapter == lease.adapter
    assert lease.adapter.digest == A.digest
    assert torch.equal(house.rows_of_q(lease), tensors_of(lease.adapter.layout, seed=0)["layers.0.q.lora_A"])
    assert lease.adapter.layout.scales[0][0] == 1.0, "the scale of 2 went into B when it was packed"
    assert house.changes == [(A.digest, True)]


async def test_the_least_recently_used_idle_adapter_goes(house) -> None:
    leases = [await house.cache.get(ref) for ref in (A, B, C)]
    for lease in (leases[1], leases[0]):
        lease.release()
        lease.release()
    await house.cache.get(D)
    assert house.holds("a", "c", "d")
    assert house.changes[-2:] == [(B.digest, False), (D.digest, True)]


async def test_waits_for_room_until_a_lease_ends(house) -> None:
    leases = [await house.cache.get(ref) for ref in (A, B, C)]
    getting = asyncio.create_task(house.cache.get(D))
    await wait_until(house.cache._next_for_room.locked)
    await settle()
    assert not getting.done()
    leases[1].release()
    await getting
    assert house.holds("a", "c", "d")


async def test_is_full_when_no_lease_ends_in_time(tmp_path) -> None:
    house = House(tmp_path, HostCacheLimits(max_loads=3, max_prefetches=2, room_timeout_seconds=0))
    for ref in (A, B, C):
        await house.cache.get(ref)
    with pytest.raises(HostCacheFull, match=r"adapter team/d: it needs 2 pages"):
        await house.cache.get(D)
    assert house.holds("a", "b", "c")


async def test_an_adapter_larger_than_the_arena_is_refused(house) -> None:
    with pytest.raises(AdapterTooLarge, match="needs 7 pages of host memory and the host cache has 6"):
        await house.cache.get(REFS["too-large"])
    assert await house.cache.get(REFS["large"])


async def test_a_large_adapter_gets_its_turn_before_later_small_ones(house) -> None:
    leases = [await house.cache.get(ref) for ref in (A, B, C)]
    large = asyncio.create_task(house.cache.get(REFS["large"]))
    await wait_until(house.cache._next_for_room.locked)
    small = asyncio.create_task(house.cache.get(D))
    for lease in leases:
        await settle()
        assert not large.done()
        lease.release()
    (await large).release()
    await small


async def test_all_who_want_one_digest_share_one_fetch(house) -> None:
    house.close_source()
    gets = [asyncio.create_task(house.cache.get(A)) for _ in range(5)]
    await settle()
    house.source.open.set()
    leases = await asyncio.gather(*gets)
    assert house.source.fetched == ["team/a"]
    for lease in leases:
        assert house.cache._index.allocate(NUM_PAGES) is None, "every one of them holds a lease"
        lease.release()
    (await house.cache.get(REFS["large"])).release()
    assert house.holds("large")


async def test_one_who_gives_up_does_not_stop_the_others(house) -> None:
    house.close_source()
    first, second = (asyncio.create_task(house.cache.get(A)) for _ in range(2))
    await house.source.asked.wait()
    first.cancel()
    await settle()
    assert first.cancelled()
    house.source.open.set()
    (await second).release()
    (await house.cache.get(REFS["large"])).release()
    assert house.holds("large"), "no lease was left behind"


async def test_the_last_to_give_up_ends_the_load_and_the_next_starts_anew(house) -> None:
    house.close_source()
    gets = [asyncio.create_task(house.cache.get(A)) for _ in range(2)]
    await house.source.asked.wait()
    for get in gets:
        get.cancel()
    again = asyncio.create_task(house.cache.get(A))
    await settle()
    assert house.source.cancelled == ["team/a"]
    house.source.open.set()
    assert (await again).adapter.digest == A.digest
    assert house.source.fetched == ["team/a", "team/a"]


@pytest.mark.parametrize("outcome", ["packed", "failed"])
async def test_pages_are_not_reused_while_a_cancelled_load_still_writes_them(house, monkeypatch, outcome) -> None:
    started, may_end = asyncio.Event(), threading.Event()
    loop, pack = asyncio.get_running_loop(), host_cache.pack_weights

    def slow_pack(*args) -> AdapterLayout:
        loop.call_soon_threadsafe(started.set)
        assert may_end.wait(timeout=10)
        layout = pack(*args)
        if outcome == "failed":
            raise AdapterCorrupt("late")
        return layout

    monkeypatch.setattr(host_cache, "pack_weights", slow_pack)
    getting = asyncio.create_task(house.cache.get(A))
    await started.wait()
    getting.cancel()
    await settle()
    assert getting.cancelled()
    assert house.cache._index.free_pages == NUM_PAGES - 2
    may_end.set()
    await wait_until(lambda: house.cache._index.free_pages == NUM_PAGES)
    assert house.holds()


async def test_one_cancelled_in_the_moment_of_success_leaves_no_lease(house) -> None:
    house.close_source()
    getting = asyncio.create_task(house.cache.get(A))
    await house.source.asked.wait()
    flight = house.cache._flights[A.digest]
    flight.task.add_done_callback(lambda _: getting.cancel())
    house.source.open.set()
    with pytest.raises(asyncio.CancelledError):
        await getting
    assert house.holds("a")
    await house.cache.get(REFS["large"])
    assert house.holds("large")


async def test_a_failure_reaches_all_under_their_own_names_and_is_not_kept(house) -> None:
    good = house.source.files.pop(A.digest)
    other = AdapterRef("other/name", A.digest, A.rank, A.size_bytes)
    results = await asyncio.gather(house.cache.get(A), house.cache.get(other), return_exceptions=True)
    assert [type(result) for result in results] == [AdapterNotFound, AdapterNotFound]
    assert [result.message.split(":")[0] for result in results] == ["adapter team/a", "adapter other/name"]
    assert results[0].metadata == {"adapter_id": "team/a", "digest": A.digest}
    house.source.files[A.digest] = good
    assert await house.cache.get(A)


async def test_a_file_that_cannot_be_used_takes_no_pages(house) -> None:
    house.source.files[A.digest] = b"no weights"
    with pytest.raises(AdapterCorrupt, match="adapter team/a: the weights are not a safetensors file"):
        await house.cache.get(A)
    assert house.cache._index.free_pages == NUM_PAGES


async def test_hints_load_ahead_within_their_bound(house) -> None:
    house.close_source()
    house.cache.prefetch([A, B, C])
    house.cache.prefetch([D])
    await settle()
    assert house.source.fetched == ["team/a", "team/b"]
    house.source.open.set()
    (await house.cache.get(A)).release()
    await wait_until(lambda: house.holds("a", "b"))
    assert house.source.fetched == ["team/a", "team/b"]


async def test_a_hint_that_fails_or_finds_no_room_is_dropped(house) -> None:
    leases = [await house.cache.get(ref) for ref in (A, B, C)]
    house.cache.prefetch([D, ref_to(b"unknown")])
    await wait_until(lambda: not house.cache._flights)
    assert house.holds("a", "b", "c")
    leases[0].release()
    house.cache.prefetch([D])
    await wait_until(lambda: house.holds("b", "c", "d"))


async def test_a_hinted_load_goes_on_when_its_only_waiter_leaves(house) -> None:
    house.close_source()
    house.cache.prefetch([A])
    getting = asyncio.create_task(house.cache.get(A))
    await house.source.asked.wait()
    getting.cancel()
    await settle()
    house.source.open.set()
    await wait_until(lambda: house.holds("a"))
    assert house.source.cancelled == []


async def test_loads_at_once_are_bounded(house) -> None:
    house.close_source()

    async def use(name: str) -> None:
        (await house.cache.get(REFS[name])).release()

    uses = [asyncio.create_task(use(name)) for name in "abcdef"]
    await settle()
    assert len(house.source.fetched) == LIMITS.max_loads
    house.source.open.set()
    await asyncio.gather(*uses)
    assert len(house.source.fetched) == 6


async def test_close_ends_every_load(house) -> None:
    house.close_source()
    getting = asyncio.create_task(house.cache.get(A))
    await house.source.asked.wait()
    await house.cache.close()
    with pytest.raises(asyncio.CancelledError):
        await getting
    assert house.cache._index.free_pages == NUM_PAGES
