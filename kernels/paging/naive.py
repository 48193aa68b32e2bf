"""Writes to the page pool as their formula reads: what every implementation is measured against."""

from torch import Tensor


def write_kv(pages: Tensor, key: Tensor, value: Tensor, slots: Tensor, block_size: int) -> None:
    """As `kernels.paging.write_kv`, a token at a time."""
    for row, slot in enumerate(slots.tolist()):
        if slot < 0:
            continue
        page = pages[slot // block_size].view(2, block_size, *key.shape[1:])
        page[0, slot % block_size] = key[row]
        page[1, slot % block_size] = value[row]


def copy_pages(pages: Tensor, page_ids: Tensor, source: Tensor, *, source_ids: Tensor | None = None) -> None:
    """As `kernels.paging.copy_pages`, a page at a time."""
    for index, page in enumerate(page_ids.tolist()):
        if 0 <= page < pages.shape[1]:
            pages[:, page] = source[:, index if source_ids is None else int(source_ids[index])]
