"""Copies adapters from host memory into the pool."""

from collections.abc import Callable, Collection, Iterable
from itertools import groupby

import torch

from worker.adapters.residency import Load
from worker.memory.host_arena import HostArena
from worker.memory.storage import PageStorage


def loader_for(arena: HostArena, storage: PageStorage) -> "HostLoader | DeviceLoader":
    """The way from host memory to where the pool is."""
    return HostLoader(arena, storage) if storage.pages.device.type == "cpu" else DeviceLoader(arena, storage)


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
    their places.
    """

    def __init__(self, arena: HostArena, storage: PageStorage) -> None:
        arena.pin()
        self._arena = arena
        self._storage = storage
        self._stream = torch.cuda.Stream(storage.pages.device)
        self._on_their_way: dict[str, torch.cuda.Event] = {}  # in the order of the copies
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
                    self._arena.copy_to_pool(self._storage, load.host_pages, load.pool_pages)
                    self._on_their_way.pop(load.digest, None)  # an earlier copy, to pages that it lost
                    event = self._on_their_way[load.digest] = torch.cuda.Event()
                    event.record(self._stream)

    def take_arrived(self) -> list[str]:
        """Adapters whose last copies were done since the last call."""
        arrived = []
        for digest, event in self._on_their_way.items():
            if not event.query():
                break
            arrived.append(digest)
        for digest in arrived:
            del self._on_their_way[digest]
        return arrived

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
