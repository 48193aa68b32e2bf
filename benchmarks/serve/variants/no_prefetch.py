"""Adapters are copied when a sequence is about to start with them, and everybody waits until they are there."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from benchmarks.serve.variants.unified import Unified
from worker.adapters.loader import DeviceLoader, loader_for
from worker.adapters.residency import Load
from worker.engine.config import EngineConfig
from worker.engine.engine import Loader
from worker.memory.host_arena import HostArena
from worker.memory.storage import PageStorage


@dataclass(frozen=True)
class NoPrefetch(Unified):
    """No look ahead, and no copy beside a step."""

    name: str = "no prefetch"

    def configure(self, config: EngineConfig) -> EngineConfig:
        """Without a look at who waits."""
        return replace(config, prefetch_window=0)

    def loader(self, arena: HostArena, storage: PageStorage, max_step_pages: int) -> Loader:
        """One that blocks; on a CPU every loader does."""
        if storage.pages.device.type == "cpu":
            return loader_for(arena, storage)
        return BlockingLoader(arena, storage, max_step_pages)


class BlockingLoader(DeviceLoader):
    """Copies while nothing else runs on the GPU."""

    def perform(self, loads: Iterable[Load]) -> None:
        """Waits for the step in flight, copies, and waits for the copies."""
        if waiting := list(loads):
            torch.cuda.synchronize()
            super().perform(waiting)
            torch.cuda.synchronize()
