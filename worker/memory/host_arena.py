"""The host arena: a file in memory, divided in pages, that the worker's two processes share.

The server process writes adapters into it; the engine process copies them into the pool. Which page holds what is
not known here.
"""

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from worker.memory.errors import HostArenaUnusable, HostMemoryFull
from worker.memory.layout import PageGeometry
from worker.memory.storage import PageStorage, page_size_bytes


class HostArena:
    """`num_pages` pages, each `[num_layers, page_elements]`: exactly what one page id of the pool holds.

    The file is sparse: a page takes memory from its first `reserve` on.
    """

    def __init__(self, path: Path, num_pages: int, geometry: PageGeometry, dtype: torch.dtype) -> None:
        self.path = path
        self._page_bytes = page_size_bytes(geometry, dtype)
        num_elements = num_pages * geometry.shape.num_layers * geometry.page_elements
        flat = torch.from_file(str(path), shared=True, size=num_elements, dtype=dtype)
        self._pages = flat.view(num_pages, geometry.shape.num_layers, geometry.page_elements)
        self._reserved = bytearray(num_pages)
        self._file = path.open("r+b", buffering=0)

    @classmethod
    def create(cls, folder: Path, num_pages: int, geometry: PageGeometry, dtype: torch.dtype) -> Self:
        """Makes a new file in `folder` and maps it.

        Raises:
            HostArenaUnusable: the arena would hold no page, the folder cannot be written, or has no room.
        """
        page_bytes = page_size_bytes(geometry, dtype)
        if num_pages < 1:
            raise HostArenaUnusable(f"the host cache holds no page: set its size to {page_bytes} bytes or more")
        try:
            _check_room(folder, num_pages * page_bytes)
            descriptor, name = tempfile.mkstemp(prefix="multitude-arena-", dir=folder)
        except OSError as error:
            raise HostArenaUnusable(
                f"the host cache cannot be made in {folder}: {error.strerror}: point host_cache_dir to a folder that "
                f"this worker may write to"
            ) from error
        try:
            os.truncate(descriptor, num_pages * page_bytes)
            return cls(Path(name), num_pages, geometry, dtype)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    @classmethod
    def open(cls, path: Path, num_pages: int, geometry: PageGeometry, dtype: torch.dtype) -> Self:
        """Maps the file that another process created with the same arguments."""
        expected = num_pages * page_size_bytes(geometry, dtype)
        actual = path.stat().st_size
        assert actual == expected, f"the arena has {actual} bytes and its users expect {expected}"
        return cls(path, num_pages, geometry, dtype)

    @property
    def num_pages(self) -> int:
        """Pages in the arena."""
        return self._pages.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The model's type."""
        return self._pages.dtype

    def page(self, page: int) -> Tensor:
        """A view of one page, `[num_layers, page_elements]`."""
        return self._pages[page]

    def reserve(self, pages: Sequence[int]) -> None:
        """Makes sure that `pages` are backed by memory; call it before the first write.

        Writing to a mapped page that the file system cannot back kills the process; asking for it first does not.

        Raises:
            HostMemoryFull: the file system is full.
        """
        for page in pages:
            if self._reserved[page]:
                continue
            try:
                os.posix_fallocate(self._file.fileno(), page * self._page_bytes, self._page_bytes)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise HostMemoryFull(
                    f"the file system that holds the host cache is full at {sum(self._reserved)} of {self.num_pages} "
                    f"pages: free some of it, or set a smaller host cache"
                ) from error
            self._reserved[page] = 1

    def copy_to_pool(self, storage: PageStorage, host_pages: Sequence[int], pool_pages: Sequence[int]) -> None:
        """Copies `host_pages[i]` to page `pool_pages[i]` of the pool, all layers."""
        for host_page, pool_page in zip(host_pages, pool_pages, strict=True):
            storage.pages[:, pool_page].copy_(self._pages[host_page])

    def unlink(self) -> None:
        """Removes the file's name; its memory lives as long as a process maps it. May be called twice."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives back the file; the memory goes when the last view of it goes."""
        self._file.close()


def _check_room(folder: Path, num_bytes: int) -> None:
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    if num_bytes > free:
        raise HostArenaUnusable(
            f"the host cache of {num_bytes} bytes does not fit in {folder}, which has {free} bytes free: set a "
            f"smaller host_cache_bytes, point host_cache_dir to a file system with room, or make that one larger "
            f"(docker: --shm-size)"
        )
