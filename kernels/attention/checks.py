"""What attention asks of its arguments. Nothing here reads a device: a check costs no synchronisation."""

import torch
from torch import Tensor

from kernels.attention.batch import AttentionBatch


def check(
    query: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    *,
    num_kv_heads: int,
    block_size: int,
    scale: float,
    window: int | None,
) -> None:
    """Raises a ValueError that names the argument of `kernels.attention.paged_attention` to change."""
    if query.ndim != 3 or query.stride(2) != 1:
        raise ValueError(
            f"query: [num_rows, num_heads, head_dim] of unit stride in head_dim wanted, "
            f"got {tuple(query.shape)} of strides {query.stride()}"
        )
    if not query.is_floating_point():
        raise ValueError(f"query: a floating-point dtype wanted, got {query.dtype}")
    if num_kv_heads < 1 or query.shape[1] % num_kv_heads:
        raise ValueError(f"num_kv_heads: a divisor of the query's {query.shape[1]} heads wanted, got {num_kv_heads}")
    if block_size < 1:
        raise ValueError(f"block_size: at least 1 wanted, got {block_size}")
    if not scale > 0:
        raise ValueError(f"scale: a positive number wanted, got {scale}")
    if window is not None and window < 1:
        raise ValueError(f"window: at least 1 or None wanted, got {window}")
    page_elements = 2 * block_size * num_kv_heads * query.shape[2]
    if pages.ndim != 2 or pages.shape[1] != page_elements or not pages.is_contiguous():
        raise ValueError(
            f"pages: [num_pages, {page_elements}], contiguous, wanted for blocks of {block_size} tokens of "
            f"{num_kv_heads} KV heads of {query.shape[2]}, got {tuple(pages.shape)} of strides {pages.stride()}"
        )
    if pages.dtype != query.dtype or pages.device != query.device:
        raise ValueError(
            f"pages: {query.dtype} on {query.device} wanted as of query, got {pages.dtype} on {pages.device}"
        )
    _check_batch(batch, query.device)


def _check_batch(batch: AttentionBatch, device: torch.device) -> None:
    num_seqs = batch.context_lens.shape[0]
    for name, table, shape in (
        ("query_start", batch.query_start, (num_seqs + 1,)),
        ("context_lens", batch.context_lens, (num_seqs,)),
        ("block_table", batch.block_table, (num_seqs, batch.block_table.shape[-1])),
    ):
        if table.shape != shape or table.dtype != torch.int32 or table.device != device or table.stride(-1) != 1:
            raise ValueError(
                f"batch.{name}: {list(shape)} of int32 on {device} with unit stride wanted, "
                f"got {tuple(table.shape)} of {table.dtype} on {table.device}"
            )
    if batch.max_query_len is not None and batch.max_query_len < 0:
        raise ValueError(f"batch.max_query_len: 0 or more, or None wanted, got {batch.max_query_len}")
