"""The host arena: a file in memory, divided in pages, that the worker's two processes share.

The server process writes adapters into it; the engine process copies them into the pool. Which page holds what is
not known here.
"""

import mmap
import weakref
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from kernels.paging import copy_pages
from worker.memory.arena_file import ArenaFile
from worker.memory.errors import HostArenaUnusable
from worker.memory.layout import PageGeometry
from worker.memory.storage import PageStorage, page_size_bytes


class HostArena:
    """`num_pages` pages, each `[num_layers, page_elements]`: exactly what one page id of the pool holds.

    The file is sparse: a page takes memory from its first `reserve` on. It has to stay open as long as `reserve` is
    called, and the memory goes when the last view of it goes.
    """

    def __init__(self, file: ArenaFile, num_pages: int, geometry: PageGeometry, dtype: torch.dtype) -> None:
        self._file = file
        self._page_bytes = page_size_bytes(geometry, dtype)
        flat = torch.frombuffer(mmap.mmap(file.descriptor, num_pages * self._page_bytes), dtype=dtype)
        self._pages = flat.view(num_pages, geometry.shape.num_layers, geometry.page_elements)
        self._reserved = bytearray(num_pages)

    @classmethod
    def create(cls, file: ArenaFile, num_pages: int, geometry: PageGeometry, dtype: torch.dtype) -> Self:
        """Gives a new file its size and maps it.

        Raises:
            HostArenaUnusable: the arena would hold no page, or the file system has no room for it.
        """
        page_bytes = page_size_bytes(geometry, dtype)
        if num_pages < 1:
            raise HostArenaUnusable(f"the host cache holds no page: set its size to {page_bytes} bytes or more")
        file.resize(num_pages * page_bytes)
        return cls(file, num_pages, geometry, dtype)

    @classmethod
    def open(cls, file: ArenaFile, num_pages: int, geometry: PageGeometry, dtype: torch.dtype) -> Self:
        """Maps the file that another process created with the same arguments."""
        expected = num_pages * page_size_bytes(geometry, dtype)
        assert file.num_bytes == expected, f"the arena has {file.num_bytes} bytes and its users expect {expected}"
        return cls(file, num_pages, geometry, dtype)

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

        Raises:
            HostMemoryFull: the file system is full.
        """
        for page in pages:
            if not self._reserved[page]:
                self._file.reserve(page * self._page_bytes, self._page_bytes)
                self._reserved[page] = 1

    def pin(self) -> None:
        """Lets GPUs read the arena directly; all of it then takes memory.

        Raises:
            HostArenaUnusable: the driver does not allow it.
        """
        runtime, address = torch.cuda.cudart(), self._pages.data_ptr()
        result = runtime.cudaHostRegister(address, self._pages.nbytes, 0)
        if int(result) != 0:
            raise HostArenaUnusable(
                f"the host cache of {self._pages.nbytes} bytes cannot be pinned (CUDA error {int(result)}): set a "
                f"smaller host_cache_bytes, point host_cache_dir to a file system in memory, or raise the limit of "
                f"locked memory (ulimit -l)"
            )
        # Before the mapping goes: the driver would hold its address against whatever is mapped there next.
        weakref.finalize(self, runtime.cudaHostUnregister, address).atexit = False

    def copy_to_pool(self, storage: PageStorage, host_pages: Sequence[int], pool_pages: Sequence[int]) -> None:
        """Copies `host_pages[i]` to page `pool_pages[i]` of the pool, all layers; on a GPU, in its current stream."""
        if storage.pages.device.type == "cpu":
            for host_page, pool_page in zip(host_pages, pool_pages, strict=True):
                storage.pages[:, pool_page].copy_(self._pages[host_page])
            return
        first, count, device = host_pages[0], len(host_pages), storage.pages.device
        ids = torch.tensor((pool_pages, host_pages), pin_memory=True).to(device, non_blocking=True)
        if tuple(host_pages) == tuple(range(first, first + count)):
            moved = self._pages[first : first + count].to(device, non_blocking=True)  # [pages, num_layers, elements]
            copy_pages(storage.pages, ids[0], moved.transpose(0, 1))
        else:
            copy_pages(storage.pages, ids[0], self._pages.transpose(0, 1), source_ids=ids[1])
