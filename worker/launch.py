"""What a worker begins with while torch is on its way: the engine's process, and the file in memory that both share.

No torch here. Importing it takes seconds, and so both processes do it at the same time.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from worker.config import WorkerConfig
from worker.engine_process.client import EngineClient
from worker.memory.arena_file import ArenaFile

_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one


@dataclass(frozen=True, slots=True)
class Launch:
    """A process that waits to be told what engine to build, and the empty file that it inherited."""

    engine: EngineClient
    arena_file: ArenaFile


@asynccontextmanager
async def launched(config: WorkerConfig) -> AsyncIterator[Launch]:
    """Both, until the end of the block. Raises HostArenaUnusable if there is no place for the file."""
    with closing(ArenaFile.create(config.host_cache_dir or _memory_folder())) as file:
        engine = await EngineClient.launch(preload="worker.engine_process.build", descriptors=(file.descriptor,))
        try:
            yield Launch(engine, file)
        finally:
            await engine.close()


def _memory_folder() -> Path:
    has_memory_folder = _MEMORY_FOLDER.is_dir() and os.access(_MEMORY_FOLDER, os.W_OK)
    return _MEMORY_FOLDER if has_memory_folder else Path(tempfile.gettempdir())
