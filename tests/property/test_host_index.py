"""A state machine over the host cache's books: leased adapters stay, the others go least recently used first."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.adapters.host_index import HostIndex
from worker.memory.layout import AdapterLayout, ModelShape
from worker.types import HostedAdapter

LAYOUT = AdapterLayout(ModelShape(1, 8, 2, 1, 4, 8), ((1, 0, 0, 0, 0, 0, 0),), ((1.0,) * 7,))
NUM_PAGES = 10
NUM_PAGES_OF = {"one": 1, "two": 2, "other-two": 2, "three": 3, "six": 6, "too-large": 11}
digests = st.sampled_from(sorted(NUM_PAGES_OF))


class HostIndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = HostIndex(NUM_PAGES, self.on_change)
        self.reported: set[str] = set()
        self.order: list[str] = []  # hosted digests, the least recently used first
        self.leases: dict[str, int] = {}
        self.pages: dict[str, tuple[int, ...]] = {}
        self.packing: list[tuple[int, ...]] = []

    def on_change(self, digest: str, hosted: bool) -> None:
        assert hosted != (digest in self.reported)
        self.reported ^= {digest}

    def used(self, digest: str) -> None:
        self.order = [other for other in self.order if other != digest] + [digest]

    def allocate(self, count: int) -> tuple[int, ...] | None:
        """Allocates in the real books, and checks against the model who had to go."""
        expected = list(self.order)
        for digest in self.order:
            free = self.index.total_pages - sum(NUM_PAGES_OF[d] for d in expected) - sum(map(len, self.packing))
            if free < count and not self.leases[digest]:
                expected.remove(digest)
        free = self.index.total_pages - sum(NUM_PAGES_OF[d] for d in expected) - sum(map(len, self.packing))
        pages = self.index.allocate(count)
        assert (pages is not None) == (free >= count)
        if pages is not None:
            self.order = expected
        assert set(self.index.digests) == set(self.order) == self.reported
        return pages

    @rule(digest=digests, num_leases=st.integers(0, 2))
    def load(self, digest: str, num_leases: int) -> None:
        if digest in self.order or (pages := self.allocate(NUM_PAGES_OF[digest])) is None:
            return
        self.index.add(HostedAdapter(digest, LAYOUT, pages), num_leases)
        self.pages[digest], self.leases[digest] = pages, num_leases
        self.used(digest)

    @rule(count=st.integers(1, 4))
    def begin_to_pack(self, count: int) -> None:
        if (pages := self.allocate(count)) is not None:
            self.packing.append(pages)

    @precondition(lambda self: self.packing)
    @rule()
    def fail_to_pack(self) -> None:
        self.index.give_back(self.packing.pop())

    @rule(digest=digests)
    def lease(self, digest: str) -> None:
        adapter = self.index.lease(digest)
        assert (adapter is not None) == (digest in self.order)
        if adapter is not None:
            assert adapter.host_pages == self.pages[digest]
            self.leases[digest] += 1

    @precondition(lambda self: any(self.leases.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(digest for digest, count in self.leases.items() if count)))
        self.index.release(digest)
        self.leases[digest] -= 1
        if not self.leases[digest]:
            self.used(digest)

    @rule(digest=digests)
    def touch(self, digest: str) -> None:
        assert self.index.touch(digest) == (digest in self.order)
        if digest in self.order and not self.leases[digest]:
            self.used(digest)

    @invariant()
    def books_are_right(self) -> None:
        self.index.check_integrity()
        held = [page for digest in self.order for page in self.pages[digest]] + [
            p for pages in self.packing for p in pages
        ]
        assert len(held) == len(set(held)) == NUM_PAGES - self.index.free_pages


HostIndexMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestHostIndex = HostIndexMachine.TestCase
