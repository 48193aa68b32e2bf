"""Attention as its formula reads, row by row in float64: what every implementation is measured against."""

import torch
from torch import Tensor

from kernels.attention.batch import AttentionBatch


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
    """As `kernels.attention.paged_attention`, in float64."""
    num_heads, head_dim = query.shape[1:]
    output = torch.empty(query.shape, dtype=torch.float64, device=query.device)
    for seq, context in enumerate(batch.context_lens.tolist()):
        start, stop = batch.query_start[seq : seq + 2].tolist()
        held = batch.block_table[seq, : -(-context // block_size)].long()
        kv = pages[held].view(len(held), 2, block_size, num_kv_heads, head_dim).double()
        keys, values = kv[:, 0].flatten(0, 1), kv[:, 1].flatten(0, 1)  # [tokens, num_kv_heads, head_dim]
        for row in range(start, stop):
            position = context - (stop - row)
            seen = slice(0 if window is None else max(0, position - window + 1), position + 1)
            for head in range(num_heads):
                kv_head = head // (num_heads // num_kv_heads)
                scores = keys[seen, kv_head] @ query[row, head].double() * scale
                output[row, head] = scores.softmax(0) @ values[seen, kv_head]
    return output
