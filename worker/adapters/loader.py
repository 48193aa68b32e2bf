"""Copies adapters from host memory into the pool."""

from collections.abc import Iterable

from worker.adapters.residency import Load
from worker.memory.host_arena import HostArena
from worker.memory.storage import PageStorage


class AdapterLoader:
    """Does the copies that residency asks for."""

    def __init__(self, arena: HostArena, storage: PageStorage) -> None:
        self._arena = arena
        self._storage = storage

    def perform(self, loads: Iterable[Load]) -> None:
        """Does every copy; returns when a forward pass on the same device may read the pages."""
        for load in loads:
            self._arena.copy_to_pool(self._storage, load.host_pages, load.pool_pages)
