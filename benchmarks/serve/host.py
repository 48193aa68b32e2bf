"""Dummy adapters in a host arena, as a worker's host cache holds real ones: all at once, or as they are asked for."""

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import torch

from benchmarks.serve.run import request_of
from benchmarks.serve.workload import Item
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import AdapterLayout, PageGeometry
from worker.memory.pool import PageKind, PagePool
from worker.memory.storage import page_size_bytes
from worker.types import EngineRequest, HostedAdapter

_SOURCE_BYTES = 256 << 20  # more than a processor's caches hold
_WRITERS = 8  # threads that fill an arena


class HostMemory:
    """An arena, and the dummy adapters in it.

    What an adapter holds stands for the store's files: a run of pages of a block of small random numbers, which begins
    elsewhere for every adapter and is the same in every engine. The block is ordinary memory, so bringing an adapter
    here costs a copy, and no network or disk.
    """

    def __init__(self, arena: HostArena, geometry: PageGeometry, layouts: Mapping[int, AdapterLayout]) -> None:
        self.arena = arena
        self._geometry = geometry
        self._layouts = layouts
        self._pages = PagePool(arena.num_pages)
        generator = torch.Generator().manual_seed(0)
        page = arena.page(0)
        count = max(1, min(_SOURCE_BYTES // page.nbytes, arena.num_pages))
        self._source = page.new_empty(count, *page.shape).normal_(0.0, 0.02, generator=generator)

    def allocate(self, adapter: int) -> HostedAdapter | None:
        """Pages for an adapter, not yet written; None while there are too few."""
        layout = self._layouts[adapter]
        count = layout.num_pages(self._geometry)
        assert count <= self.arena.num_pages, "an adapter is larger than the host cache: give it more"
        if self._pages.free_pages < count:
            return None
        return HostedAdapter(f"dummy-{adapter}", layout, self._pages.allocate(count, PageKind.ADAPTER))

    def write(self, adapter: int, hosted: HostedAdapter) -> None:
        """Fills an adapter's pages; may be called by several threads for different adapters."""
        self.arena.reserve(hosted.host_pages)
        for index, page in enumerate(hosted.host_pages):
            self.arena.page(page).copy_(self._source[(adapter * 17 + index) % len(self._source)])

    def free(self, hosted: HostedAdapter) -> None:
        """Gives an adapter's pages back."""
        self._pages.release(hosted.host_pages)

    def back(self) -> None:
        """Has all of the arena backed by memory, so that pinning it finds it there."""
        with ThreadPoolExecutor(_WRITERS) as threads:
            list(threads.map(lambda page: self.arena.reserve([page]), range(self.arena.num_pages)))

    def fill(self) -> dict[int, HostedAdapter]:
        """Every adapter, written."""
        hosted = {adapter: self.allocate(adapter) for adapter in self._layouts}
        found = {adapter: one for adapter, one in hosted.items() if one is not None}
        assert len(found) == len(hosted), "the arena is too small"
        with ThreadPoolExecutor(_WRITERS) as threads:
            list(threads.map(self.write, found, found.values()))
        return found


@contextmanager
def host_memory(
    layouts: Mapping[int, AdapterLayout], geometry: PageGeometry, dtype: torch.dtype, num_bytes: int | None
) -> Iterator[HostMemory]:
    """Room for `num_bytes`; None: for every adapter."""
    num_pages = 1 + sum(layout.num_pages(geometry) for layout in layouts.values())
    if num_bytes is not None:
        num_pages = num_bytes // page_size_bytes(geometry, dtype)
    file = ArenaFile.create()
    try:
        yield HostMemory(HostArena.create(file, num_pages, geometry, dtype), geometry, layouts)
    finally:
        file.close()


class Present:
    """Requests whose adapters are all in host memory: they may start at once."""

    def __init__(self, adapters: Mapping[int, HostedAdapter]) -> None:
        self.adapters = adapters
        self._ready: list[EngineRequest] = []

    def ask(self, name: str, item: Item) -> None:
        """A request came."""
        self._ready.append(request_of(name, item, self.adapters))

    def take_ready(self) -> Iterable[EngineRequest]:
        """Requests that may start, and have not been taken."""
        ready, self._ready = self._ready, []
        return ready

    def end(self, name: str) -> None:
        """A request ended."""

    @property
    def has_work(self) -> bool:
        """Whether a request may still become ready."""
        return bool(self._ready)


class Bringer:
    """Brings adapters to host memory that does not hold all of them, one after the other, in a thread of its own.

    An adapter that a request waits for or runs with stays; of the others the least recently used makes room. `close`
    ends the thread.
    """

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._hosted: OrderedDict[int, HostedAdapter] = OrderedDict()  # the next to go first
        self._users: dict[int, int] = {}
        self._adapter_of: dict[str, int] = {}
        self._asked: OrderedDict[int, list[tuple[str, Item]]] = OrderedDict()
        self._ready: deque[EngineRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.num_brought = 0
        self._thread = threading.Thread(target=self._bring, name="bringer", daemon=True)
        self._thread.start()

    def ask(self, name: str, item: Item) -> None:
        """As `Present.ask`."""
        with self._changed:
            if item.adapter is None:
                self._ready.append(request_of(name, item, {}))
                return
            self._adapter_of[name] = item.adapter
            self._users[item.adapter] = self._users.get(item.adapter, 0) + 1
            if item.adapter in self._hosted:
                self._hosted.move_to_end(item.adapter)
                self._ready.append(request_of(name, item, self._hosted))
            else:
                self._asked.setdefault(item.adapter, []).append((name, item))
                self._changed.notify_all()

    def take_ready(self) -> Iterable[EngineRequest]:
        """As `Present.take_ready`."""
        with suppress(IndexError):
            while True:
                yield self._ready.popleft()

    def end(self, name: str) -> None:
        """As `Present.end`."""
        with self._changed:
            if (adapter := self._adapter_of.pop(name, None)) is not None:
                self._users[adapter] -= 1
                self._hosted.move_to_end(adapter)
                self._changed.notify_all()

    @property
    def has_work(self) -> bool:
        """As `Present.has_work`."""
        with self._changed:
            return bool(self._ready or self._asked)

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _bring(self) -> None:
        while (found := self._next()) is not None:
            adapter, hosted = found
            self._memory.write(adapter, hosted)
            with self._changed:
                self._hosted[adapter] = hosted
                self.num_brought += 1
                self._ready.extend(request_of(name, item, self._hosted) for name, item in self._asked.pop(adapter))

    def _next(self) -> tuple[int, HostedAdapter] | None:
        """The adapter asked for first, once there is room for it; None at the end."""
        with self._changed:
            while not self._closed:
                if self._asked:
                    adapter = next(iter(self._asked))
                    if (hosted := self._memory.allocate(adapter)) is not None:
                        return adapter, hosted
                    if self._evict():
                        continue
                self._changed.wait()
            return None

    def _evict(self) -> bool:
        """Lets one go that nobody uses."""
        for adapter, hosted in self._hosted.items():
            if not self._users[adapter]:
                del self._hosted[adapter]
                self._memory.free(hosted)
                return True
        return False
