"""The page pool's memory: one tensor for all layers and pages."""

import mmap
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

from worker.memory.errors import PoolTooSmall
from worker.memory.layout import PageGeometry


def page_size_bytes(geometry: PageGeometry, dtype: torch.dtype) -> int:
    """Bytes of one page id over all layers."""
    return geometry.shape.num_layers * geometry.page_elements * dtype.itemsize


def pages_in_budget(pool_bytes: int, geometry: PageGeometry, dtype: torch.dtype, *, min_tokens: int) -> int:
    """Pages that a budget of `pool_bytes` bytes holds.

    Args:
        pool_bytes: The budget.
        geometry: Size of a page.
        dtype: The model's type.
        min_tokens: Tokens of KV that the pool has to hold to be of use, such as the longest sequence.

    Raises:
        PoolTooSmall: the budget holds fewer pages than `min_tokens` need.
    """
    page_bytes = page_size_bytes(geometry, dtype)
    num_pages = pool_bytes // page_bytes
    min_pages = max(1, geometry.pages_for_tokens(min_tokens))
    if num_pages < min_pages:
        raise PoolTooSmall(
            f"a pool of {pool_bytes} bytes holds {num_pages} pages of {page_bytes} bytes, and a sequence of "
            f"{min_tokens} tokens needs {min_pages}: set at least {min_pages * page_bytes} bytes, or serve a shorter "
            f"context"
        )
    return num_pages


class PageStorage:
    """The pool's one allocation.

    Attributes:
        pages: `[num_layers, num_pages, page_elements]` of the model's type; zero at first, so that no page ever holds
            a NaN that nobody wrote.
    """

    def __init__(self, geometry: PageGeometry, num_pages: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.geometry = geometry
        size = (geometry.shape.num_layers, num_pages, geometry.page_elements)
        if torch.device(device).type == "cpu":
            self.pages: Tensor = _host_memory(prod(size), dtype).view(size)
        else:
            self.pages = torch.zeros(size, dtype=dtype, device=device)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page id over all layers."""
        return page_size_bytes(self.geometry, self.pages.dtype)

    @property
    def num_pages(self) -> int:
        """Page ids that are valid."""
        return self.pages.shape[1]


def _host_memory(num_elements: int, dtype: torch.dtype) -> Tensor:
    """Zeros that take room only once they are written, in huge pages where the system has them.

    A step reads adapters and KV from all over the pool; with huge pages fewer of these reads miss the TLB.
    """
    memory = mmap.mmap(-1, num_elements * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype)
