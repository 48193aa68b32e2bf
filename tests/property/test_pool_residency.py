"""A state machine over the page pool and the adapters in it, with page contents simulated.

Contents prove what counts: whatever was evicted, reloaded and handed over between KV and adapters, a sequence reads
its own KV and its own adapter's weights. Copies are done late, in their order: when a sequence needs the adapter, when
its pages go to KV, or when its host pages are about to go to another.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.adapters.residency import Residency
from worker.memory.errors import OutOfPages
from worker.memory.layout import AdapterLayout, ModelShape, PageGeometry
from worker.memory.pool import PageKind, PagePool
from worker.types import HostedAdapter

SHAPE = ModelShape(num_layers=1, hidden_size=8, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=8)
GEOMETRY = PageGeometry(SHAPE, block_size=2)  # a page of 16 elements: one rank of q, 8 in and 8 out
NUM_PAGES = 12
MAX_QUEUED_PAGES = 5
NUM_PAGES_OF = {"one": 1, "two": 2, "three": 3, "seven": 7, "too-large": 13}
digests = st.sampled_from(sorted(NUM_PAGES_OF))


def layout_of(num_pages: int) -> AdapterLayout:
    return AdapterLayout(SHAPE, ((num_pages, 0, 0, 0, 0, 0, 0),), ((1.0,) * 7,))


class PoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(NUM_PAGES)
        self.residency = Residency(self.pool, GEOMETRY, MAX_QUEUED_PAGES)
        self.pool_contents: dict[int, object] = {}
        self.host_contents: dict[int, object] = {}
        self.next_host_page = 0
        self.hosted: dict[str, HostedAdapter] = {}
        self.users: dict[str, int] = dict.fromkeys(NUM_PAGES_OF, 0)
        self.unwritten: set[int] = set()  # pages of KV that the next step writes
        self.kv: dict[int, tuple[tuple[int, ...], int]] = {}  # holder -> pages, references
        self.next_holder = 0
        self.reported: set[str] = set()
        self.last_use: list[str] = []  # of all, the next to be evicted first
        self.waiting: set[str] = set()  # adapters that sequences wait for
        self.queued: dict[str, int] = {}  # and their pages
        self.on_their_way: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []  # copies that left
        for digest in NUM_PAGES_OF:
            self.host(digest)

    def host(self, digest: str) -> None:
        count = NUM_PAGES_OF[digest]
        pages = tuple(range(self.next_host_page, self.next_host_page + count))
        self.next_host_page += count
        self.host_contents.update({page: (digest, index) for index, page in enumerate(pages)})
        self.hosted[digest] = HostedAdapter(digest, layout_of(count), pages)

    @rule(count=st.one_of(st.integers(0, 4), st.integers(0, NUM_PAGES + 1)))
    def allocate_kv(self, count: int) -> None:
        free = self.pool.free_pages
        if count > free:
            with pytest.raises(OutOfPages):
                self.pool.allocate(count, PageKind.KV)
            assert self.pool.free_pages == free
            return
        pages = self.pool.allocate(count, PageKind.KV)
        assert len(set(pages)) == count
        self.unwritten.update(pages)
        self.kv[self.next_holder] = (pages, 1)
        self.next_holder += 1

    @precondition(lambda self: self.kv)
    @rule(data=st.data())
    def share_kv(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.kv)))
        pages, references = self.kv[holder]
        self.pool.share(pages)
        self.kv[holder] = (pages, references + 1)

    @precondition(lambda self: self.kv)
    @rule(data=st.data())
    def release_kv(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(sorted(self.kv)))
        pages, references = self.kv.pop(holder)
        self.pool.release(pages)
        if references > 1:
            self.kv[holder] = (pages, references - 1)

    @rule(digest=digests)
    def acquire(self, digest: str) -> None:
        adapter = self.hosted[digest]
        missing = 0 if self.residency.is_resident(digest) else NUM_PAGES_OF[digest]
        fits = missing <= self.pool.free_pages + self.residency.evictable_pages and self.may_queue(missing)
        free = self.pool.free_pages
        assert self.residency.can_acquire(adapter) == fits
        assert self.residency.acquire(adapter) == fits
        self.note_queue(digest, missing)
        if fits:
            self.users[digest] += 1
        else:
            assert self.pool.free_pages == free, "an acquire that fails evicts nothing"

    @precondition(lambda self: any(self.users.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(digest for digest, users in self.users.items() if users)))
        for _ in range(data.draw(st.sampled_from((1, self.users[digest])))):
            self.users[digest] -= 1
            self.residency.release(digest)
            self.last_use = [d for d in self.last_use if d != digest] + [digest]
            if not self.users[digest]:
                self.queued.pop(digest, None)

    def may_queue(self, missing: int) -> bool:
        return not missing or not self.queued or sum(self.queued.values()) + missing <= MAX_QUEUED_PAGES

    def note_queue(self, digest: str, missing: int) -> None:
        self.queued = {d: count for d, count in self.queued.items() if self.residency.is_resident(d)}
        if missing and self.residency.is_resident(digest):
            self.queued[digest] = missing

    @rule(wanted=st.lists(digests, unique=True, max_size=4), keep=st.integers(0, 4))
    def prefetch(self, wanted: list[str], keep: int) -> None:
        before = {d for d in NUM_PAGES_OF if self.residency.is_resident(d)}
        free = self.pool.free_pages
        self.residency.prefetch([self.hosted[d] for d in wanted], keep)
        after = {d for d in NUM_PAGES_OF if self.residency.is_resident(d)}
        brought = [d for d in wanted if d in after - before]
        for digest in brought:
            self.note_queue(digest, NUM_PAGES_OF[digest])
        assert after - before == set(brought)
        self.waiting |= set(wanted)
        first_missing = next((i for i, d in enumerate(wanted) if d not in after), len(wanted))
        assert set(brought) <= set(wanted[:first_missing]), "one came before another that is more urgent"
        if brought:
            last = wanted.index(brought[-1])
            assert not (before - after) & set(wanted[:last]), "one that is more urgent had to go"
            held = sum(NUM_PAGES_OF[d] for d in wanted[: last + 1] if not self.users[d])
            assert self.pool.free_pages + self.residency.evictable_pages - held >= keep
        if first_missing < len(wanted):
            digest = wanted[first_missing]
            held = sum(NUM_PAGES_OF[d] for d in wanted[:first_missing] if not self.users[d])
            room = self.pool.free_pages + self.residency.evictable_pages - held - keep
            assert NUM_PAGES_OF[digest] > room or not self.may_queue(NUM_PAGES_OF[digest]), "it had room"
        assert before - after <= {d for d, users in self.users.items() if not users}
        assert brought or self.pool.free_pages == free
        idle = [d for d in self.last_use if d not in wanted]
        self.last_use = idle + [d for d in self.last_use if d in wanted and d not in brought]
        self.last_use.sort(key=lambda d: -wanted.index(d) if d in wanted else -len(wanted) - 1)
        self.last_use = [d for d in self.last_use if d not in brought] + brought

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def stop_waiting(self, data: st.DataObject) -> None:
        self.run_a_step()  # an engine's copies have left before anything else happens
        self.waiting.remove(data.draw(st.sampled_from(sorted(self.waiting))))

    @rule(count=st.integers(0, NUM_PAGES))
    def reclaim(self, count: int) -> None:
        free, evictable = self.pool.free_pages, self.residency.evictable_pages
        idle = [d for d in self.last_use if not self.users[d] and self.residency.is_resident(d)]
        freed = self.residency.reclaim(count)
        self.queued = {d: pages for d, pages in self.queued.items() if self.residency.is_resident(d)}
        assert self.pool.free_pages == free + freed
        assert self.pool.free_pages >= min(count, free + evictable)
        stayed = [d for d in idle if self.residency.is_resident(d)]
        assert stayed == idle[len(idle) - len(stayed) :], "the least recently used goes first"
        if freed:
            last_evicted = idle[len(idle) - len(stayed) - 1]
            assert self.pool.free_pages - NUM_PAGES_OF[last_evicted] < count, "one adapter too many went"

    def copy(self, count: int) -> None:
        """The first of the copies on their way are done."""
        done, self.on_their_way = self.on_their_way[:count], self.on_their_way[count:]
        for _, host_pages, pool_pages in done:
            for host_page, pool_page in zip(host_pages, pool_pages, strict=True):
                self.pool_contents[pool_page] = self.host_contents[host_page]
        left = {digest for digest, _, _ in self.on_their_way}
        self.residency.note_arrived({digest for digest, _, _ in done} - left)

    def copy_for(self, digests: set[str]) -> None:
        self.copy(max((i + 1 for i, (digest, _, _) in enumerate(self.on_their_way) if digest in digests), default=0))

    @precondition(lambda self: self.on_their_way)
    @rule(data=st.data())
    def some_arrive(self, data: st.DataObject) -> None:
        self.copy(data.draw(st.integers(1, len(self.on_their_way))))

    @rule()
    def run_a_step(self) -> None:
        loads = self.residency.take_loads()
        assert [load.digest for load in loads] == list(self.queued)
        self.queued.clear()
        self.on_their_way += [(load.digest, load.host_pages, load.pool_pages) for load in loads]
        # Those that left the pool while they were copied: their pages may hold KV that this step writes.
        self.copy_for({d for d, users in self.users.items() if users or not self.residency.is_resident(d)})
        for holder, (pages, _) in self.kv.items():
            self.pool_contents.update({page: ("kv", holder, page) for page in pages if page in self.unwritten})
        self.unwritten.clear()
        for digest, num_users in self.users.items():
            if num_users:
                contents = [self.pool_contents[page] for page in self.residency.pages_of(digest)]
                assert contents == [(digest, index) for index in range(NUM_PAGES_OF[digest])]
        for holder, (pages, _) in self.kv.items():
            assert [self.pool_contents[page] for page in pages] == [("kv", holder, page) for page in pages]

    @rule()
    def take_changes(self) -> None:
        for change in self.residency.take_changes():
            assert change.resident != (change.digest in self.reported), "every change changes something"
            self.reported ^= {change.digest}

    @rule(digest=digests)
    def host_cache_reuses_pages(self, digest: str) -> None:
        """Only the host pages of an adapter that no request uses can go to another one."""
        if not self.users[digest] and digest not in self.waiting:
            self.copy_for({digest})
            self.host_contents.update(dict.fromkeys(self.hosted[digest].host_pages, "somebody else's"))
            self.host(digest)

    @invariant()
    def books_are_right(self) -> None:
        self.pool.check_integrity()
        self.residency.check_integrity()
        assert self.pool.free_pages + self.pool.kv_pages + self.pool.adapter_pages == NUM_PAGES
        assert self.pool.kv_pages == sum(len(pages) for pages, _ in self.kv.values())

    @invariant()
    def nothing_is_held_twice(self) -> None:
        held = [page for pages, _ in self.kv.values() for page in pages]
        for digest in NUM_PAGES_OF:
            if self.residency.is_resident(digest):
                held += self.residency.pages_of(digest)
        assert len(held) == len(set(held)) == NUM_PAGES - self.pool.free_pages

    @invariant()
    def what_is_used_is_resident(self) -> None:
        for digest, num_users in self.users.items():
            assert not num_users or self.residency.is_resident(digest)

    def teardown(self) -> None:
        for digest, num_users in self.users.items():
            for _ in range(num_users):
                self.residency.release(digest)
        for pages, references in self.kv.values():
            for _ in range(references):
                self.pool.release(pages)
        self.residency.reclaim(NUM_PAGES)
        assert self.pool.free_pages == NUM_PAGES
        self.reported ^= {change.digest for change in self.residency.take_changes() if not change.resident}


PoolMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestPoolAndResidency = PoolMachine.TestCase
