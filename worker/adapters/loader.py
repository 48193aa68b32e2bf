"""Copies adapters from host memory into the pool."""

from collections.abc import Callable, Collection, Iterable
from itertools import groupby

import torch

from worker.adapters.residency import Load
from worker.memory.host_arena import HostArena
from worker.memory.storage import PageStorage


def loader_for(
    arena: HostArena, storage: PageStorage, max_step_pages: int | None = None
) -> "HostLoader | DeviceLoader":
    """The way from host memory to where the pool is; copies of `max_step_pages` are hidden under a step (None: any)."""
    if storage.pages.device.type == "cpu":
        return HostLoader(arena, storage)
    return DeviceLoader(arena, storage, max_step_pages)


class HostLoader:
    """Into a pool in host memory, where every copy is done at once."""

    def __init__(self, arena: HostArena, storage: PageStorage) -> None:
        self._arena = arena
        self._storage = storage
        self._arrived: list[str] = []

    def perform(self, loads: Iterable[Load]) -> None:
        """Does every copy; returns when a forward pass may read the pages."""
        for load in loads:
            self._arena.copy_to_pool(self._storage, load.host_pages, load.pool_pages)
            self._arrived.append(load.digest)

    def take_arrived(self) -> list[str]:
        """Adapters that were copied since the last call."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def hold_step(self, needed: Callable[[], Collection[str]]) -> None:
        """Nothing is on its way."""

    def finish(self, digest: str) -> None:
        """Nothing is on its way."""


class DeviceLoader:
    """Into a GPU's pool, from pinned memory, while the GPU runs steps.

    Copies have a stream of their own, which waits for the step in flight only where that may still write to the pages.
    A step waits for the copies of adapters that it uses, and for no others. An adapter whose host pages lie side by
    side goes over the bus as one block; of others the pages are read where they lie by the kernel that puts them in
    their places. A large adapter counts as arrived when what is left of it is hidden under the step in flight.
    """

    def __init__(self, arena: HostArena, storage: PageStorage, max_step_pages: int | None = None) -> None:
        arena.pin()
        self._arena = arena
        self._storage = storage
        self._stream = torch.cuda.Stream(storage.pages.device)
        self._max_step_pages = arena.num_pages if max_step_pages is None else max_step_pages
        self._on_their_way: dict[str, torch.cuda.Event] = {}  # when each is done, in the order of the copies
        self._unreported: dict[str, torch.cuda.Event] = {}  # when each counts as arrived
        for host_pages in ((0,), (1, 0)) if arena.num_pages > 1 else ((0,),):
            # To no page of the pool: only to have the ways compiled before the first adapter comes.
            arena.copy_to_pool(storage, host_pages, (storage.num_pages,) * len(host_pages))
        self._stream.wait_stream(torch.cuda.current_stream(storage.pages.device))

    def perform(self, loads: Iterable[Load]) -> None:
        """Queues every copy."""
        ordered = sorted(loads, key=lambda load: load.after_step)
        if not ordered:
            return
        steps = torch.cuda.current_stream(self._storage.pages.device)
        with torch.cuda.stream(self._stream):
            for after_step, group in groupby(ordered, key=lambda load: load.after_step):
                if after_step:
                    self._stream.wait_stream(steps)
                for load in group:
                    self._copy(load)

    def _copy(self, load: Load) -> None:
        for events in (self._on_their_way, self._unreported):
            events.pop(load.digest, None)  # of an earlier copy, to pages that it lost
        first = len(load.host_pages) - self._max_step_pages
        if first > 0:
            self._arena.copy_to_pool(self._storage, load.host_pages[:first], load.pool_pages[:first])
            self._unreported[load.digest] = self._stream.record_event()
        rest = slice(max(0, first), None)
        self._arena.copy_to_pool(self._storage, load.host_pages[rest], load.pool_pages[rest])
        done = self._on_their_way[load.digest] = self._stream.record_event()
        self._unreported.setdefault(load.digest, done)

    def take_arrived(self) -> list[str]:
        """Adapters whose last copies arrived since the last call."""
        _take_done(self._on_their_way)
        return _take_done(self._unreported)

    def hold_step(self, needed: Callable[[], Collection[str]]) -> None:
        """What is queued on the current stream from here on finds the copies of these adapters done."""
        if not self._on_their_way:
            return
        digests = needed()
        for digest in reversed(self._on_their_way):
            if digest in digests:  # the last of them, and so all
                torch.cuda.current_stream(self._storage.pages.device).wait_event(self._on_their_way[digest])
                return

    def finish(self, digest: str) -> None:
        """Returns when the adapter's host pages are read no more."""
        if digest in self._on_their_way:
            self._on_their_way[digest].synchronize()


def _take_done(events: dict[str, torch.cuda.Event]) -> list[str]:
    """Takes out what is done; the events are of one stream, in its order."""
    done = []
    for digest, event in events.items():
        if not event.query():
            break
        done.append(digest)
    for digest in done:
        del events[digest]
    return done
