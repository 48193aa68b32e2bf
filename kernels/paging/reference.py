"""Writes to the page pool, in torch."""

from torch import Tensor


def write_kv(pages: Tensor, key: Tensor, value: Tensor, slots: Tensor, block_size: int) -> None:
    """As `kernels.paging.write_kv`."""
    num_kv_heads, head_dim = key.shape[1:]
    # A page is `block_size` rows of keys, then as many of values; a row is one token's, all heads.
    rows = pages.view(-1, num_kv_heads * head_dim)
    key_rows = slots + slots.div(block_size, rounding_mode="floor") * block_size
    rows.index_copy_(0, key_rows, key.flatten(1))
    rows.index_copy_(0, key_rows + block_size, value.flatten(1))


def copy_pages(pages: Tensor, page_ids: Tensor, source: Tensor, *, source_ids: Tensor | None = None) -> None:
    """As `kernels.paging.copy_pages`, of ids in range."""
    wanted = source[:, : page_ids.shape[0]] if source_ids is None else source.index_select(1, source_ids)
    pages.index_copy_(1, page_ids, wanted)
