"""What the paging kernels take."""

import torch
from torch import Tensor


def check_kv(pages: Tensor, key: Tensor, value: Tensor, slots: Tensor, block_size: int) -> None:
    """Refuse what the kernel would read or write wrongly; a slot out of range only the device sees, and writes nothing.

    Raises:
        ValueError: names the argument.
    """
    if block_size < 1:
        raise ValueError(f"block_size is at least 1, not {block_size}")
    if key.dim() != 3 or value.shape != key.shape:
        raise ValueError(
            f"key and value have to be [num_rows, num_kv_heads, head_dim], not {_seen(key)} and {_seen(value)}"
        )
    num_rows, num_kv_heads, head_dim = key.shape
    for name, rows in (("key", key), ("value", value)):
        if rows.stride(2) != 1 or (rows.stride(1) != head_dim and num_kv_heads > 1) or rows.dtype != pages.dtype:
            raise ValueError(f"{name} has to be {pages.dtype} with a row's heads side by side, not {_seen(rows)}")
    page_elements = 2 * block_size * num_kv_heads * head_dim
    if pages.dim() != 2 or pages.shape[1] != page_elements or not pages.is_contiguous():
        raise ValueError(f"pages has to be [num_pages, {page_elements}] contiguous, not {_seen(pages)}")
    if slots.shape != (num_rows,) or slots.dtype != torch.int64 or not slots.is_contiguous():
        raise ValueError(f"slots has to be [{num_rows}] contiguous int64, not {_seen(slots)}")


def check_copy(pages: Tensor, page_ids: Tensor, source: Tensor, source_ids: Tensor | None) -> None:
    """Refuse what the kernel would read or write wrongly; a page out of range only the device sees, and writes nothing.

    Raises:
        ValueError: names the argument.
    """
    if pages.dim() != 3 or not pages.is_contiguous():
        raise ValueError(f"pages has to be [num_layers, num_pages, page_elements] contiguous, not {_seen(pages)}")
    num_layers, _, page_elements = pages.shape
    if source.dim() != 3 or source.shape[0] != num_layers or source.shape[2] != page_elements or source.stride(2) != 1:
        raise ValueError(
            f"source has to be [{num_layers}, num_sources, {page_elements}] with unit stride, not {_seen(source)}"
        )
    if source.dtype != pages.dtype:
        raise ValueError(f"source has to be {pages.dtype}, not {source.dtype}")
    if source.device != pages.device and not source.is_pinned():
        raise ValueError(f"source has to be on {pages.device} or in pinned memory: pin it, or copy it first")
    if page_ids.dim() != 1 or page_ids.dtype != torch.int64 or not page_ids.is_contiguous():
        raise ValueError(f"page_ids has to be [n] contiguous int64, not {_seen(page_ids)}")
    if source_ids is None:
        if page_ids.shape[0] > source.shape[1]:
            raise ValueError(f"page_ids names {page_ids.shape[0]} pages, and source has {source.shape[1]}")
    elif source_ids.shape != page_ids.shape or source_ids.dtype != torch.int64 or not source_ids.is_contiguous():
        raise ValueError(f"source_ids has to be as page_ids, {_seen(page_ids)}, not {_seen(source_ids)}")


def _seen(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} with strides {list(tensor.stride())}"
