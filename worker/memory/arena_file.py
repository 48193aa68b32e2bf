"""The file in memory that a worker's two processes share. No torch here: it is made before torch is imported."""

import errno
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Self, cast

from worker.memory.errors import HostArenaUnusable, HostMemoryFull

_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one


class ArenaFile:
    """A sparse file without a name, known by its descriptor alone: however its processes end, nothing is left behind.

    A child process that inherits the descriptor opens it with `ArenaFile.inherited`.
    """

    def __init__(self, file: BinaryIO, place: str) -> None:
        self._file = file
        self._place = place  # for messages

    @classmethod
    def create(cls, folder: Path | None = None) -> Self:
        """Makes an empty file on the file system of `folder`; None: one in memory if there is one.

        Raises:
            HostArenaUnusable: the folder cannot be written.
        """
        folder = folder or _memory_folder()
        try:
            file = tempfile.TemporaryFile(buffering=0, prefix="multitude-arena-", dir=folder)  # noqa: SIM115
        except OSError as error:
            raise HostArenaUnusable(
                f"the host cache cannot be made in {folder}: {error.strerror}: point host_cache_dir to a folder that "
                f"this worker may write to"
            ) from error
        return cls(cast("BinaryIO", file), str(folder))

    @classmethod
    def inherited(cls, descriptor: int) -> Self:
        """The file that the parent process made."""
        return cls(os.fdopen(descriptor, "r+b", buffering=0), "its file system")

    @property
    def descriptor(self) -> int:
        """Names the file in this process, and in a child process that inherits it."""
        return self._file.fileno()

    @property
    def num_bytes(self) -> int:
        """Size; most of it may not be backed by memory yet."""
        return os.fstat(self.descriptor).st_size

    @property
    def free_bytes(self) -> int:
        """Room on its file system."""
        room = os.fstatvfs(self.descriptor)
        return room.f_bavail * room.f_frsize

    def resize(self, num_bytes: int) -> None:
        """Sets the size, once, before anybody maps the file.

        Raises:
            HostArenaUnusable: the file system has no room for that much.
        """
        free_bytes = self.free_bytes
        if num_bytes > free_bytes:
            raise HostArenaUnusable(
                f"the host cache of {num_bytes} bytes does not fit in {self._place}, which has {free_bytes} bytes "
                f"free: set a smaller host_cache_bytes, point host_cache_dir to a file system with room, or make that "
                f"one larger (docker: --shm-size)"
            )
        os.ftruncate(self.descriptor, num_bytes)

    def reserve(self, start: int, num_bytes: int) -> None:
        """Backs a part of the file with memory.

        Writing to a mapped page that the file system cannot back kills the process; asking for it first does not.

        Raises:
            HostMemoryFull: the file system is full.
        """
        try:
            os.posix_fallocate(self.descriptor, start, num_bytes)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise HostMemoryFull(
                "the file system that holds the host cache is full: free some of it, or set a smaller host_cache_bytes"
            ) from error

    def close(self) -> None:
        """Gives back the descriptor; the memory goes with the last process that maps the file."""
        self._file.close()


def _memory_folder() -> Path:
    has_memory_folder = _MEMORY_FOLDER.is_dir() and os.access(_MEMORY_FOLDER, os.W_OK)
    return _MEMORY_FOLDER if has_memory_folder else Path(tempfile.gettempdir())
