"""Paged causal attention in Triton: a launch for sequences of one row, and one for those of several."""

from typing import Any

import torch
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from kernels.attention.kernel import decode, hopper, prefill


def paged_attention(
    query: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    *,
    num_kv_heads: int,
    block_size: int,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """As `kernels.attention.paged_attention`."""
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    shape: dict[str, Any] = {"num_kv_heads": num_kv_heads, "block_size": block_size, "scale": scale, "window": window}
    num_rows, num_seqs = query.shape[0], batch.context_lens.shape[0]
    if not num_rows or not num_seqs:
        return output
    on_hopper = hopper.suits(query, pages, num_kv_heads, block_size)
    (hopper if on_hopper else decode).attend_decodes(output, query, pages, batch, **shape)
    if batch.max_query_len is None or batch.max_query_len > 1:
        (hopper if on_hopper else prefill).attend_chunks(output, query, pages, batch, **shape)
    return output
