"""Copies adapters from host memory into the pool."""

from collections.abc import Iterable
from itertools import groupby

import torch

from worker.adapters.residency import Load
from worker.memory.host_arena import HostArena
from worker.memory.storage import PageStorage


def loader_for(arena: HostArena, storage: PageStorage) -> "HostLoader | DeviceLoader":
    """The way from host memory to where the pool is."""
    return HostLoader(arena, storage) if storage.pages.device.type == "cpu" else DeviceLoader(arena, storage)


class HostLoader:
    """Into a pool in host memory."""

    def __init__(self, arena: HostArena, storage: PageStorage) -> None:
        self._arena = arena
        self._storage = storage

    def perform(self, loads: Iterable[Load]) -> None:
        """Does every copy; returns when a forward pass may read the pages."""
        for load in loads:
            self._arena.copy_to_pool(self._storage, load.host_pages, load.pool_pages)


class DeviceLoader:
    """Into a GPU's pool, from pinned memory, while the GPU runs the step before.

    Copies have a stream of their own, which waits for the step in flight only where that may still write to the pages;
    the next step waits for the copies. An adapter whose host pages lie side by side goes over the bus as one block; of
    others the pages are read where they lie by the kernel that puts them in their places.
    """

    def __init__(self, arena: HostArena, storage: PageStorage) -> None:
        arena.pin()
        self._arena = arena
        self._storage = storage
        self._stream = torch.cuda.Stream(storage.pages.device)
        for host_pages in ((0,), (1, 0)) if arena.num_pages > 1 else ((0,),):
            # To no page of the pool: only to have the ways compiled before the first adapter comes.
            arena.copy_to_pool(storage, host_pages, (storage.num_pages,) * len(host_pages))
        self._stream.wait_stream(torch.cuda.current_stream(storage.pages.device))

    def perform(self, loads: Iterable[Load]) -> None:
        """Queues every copy; what is queued on the current stream from here on finds them done."""
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
        steps.wait_stream(self._stream)
