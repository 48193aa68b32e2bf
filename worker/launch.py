"""What a worker begins with while torch is on its way: the engine's process, and the file in memory that both share.

No torch here. Importing it takes seconds, and so both processes do it at the same time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

from worker.config import WorkerConfig
from worker.engine_process.client import EngineClient
from worker.memory.arena_file import ArenaFile


@dataclass(frozen=True, slots=True)
class Launch:
    """A process that waits to be told what engine to build, and the empty file that it inherited."""

    engine: EngineClient
    arena_file: ArenaFile


@asynccontextmanager
async def launched(config: WorkerConfig) -> AsyncIterator[Launch]:
    """Both, until the end of the block. Raises HostArenaUnusable if there is no place for the file."""
    with closing(ArenaFile.create(config.host_cache_dir)) as file:
        engine = await EngineClient.launch(preload="worker.engine_process.build", descriptors=(file.descriptor,))
        try:
            yield Launch(engine, file)
        finally:
            await engine.close()
