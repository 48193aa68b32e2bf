"""Paged causal attention in torch: decodes of similar length together, chunks of prompts one by one."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.attention.batch import AttentionBatch
from kernels.attention.plan import Chunk, DecodeGroup, plan_of


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
    plan = plan_of(batch, block_size, window, query.dtype)
    blocks = pages.view(2 * pages.shape[0], -1)  # keys of a page, then its values
    output = torch.empty_like(query)
    for chunk in plan.chunks:
        output[chunk.start : chunk.stop] = _attend_chunk(
            query[chunk.start : chunk.stop], blocks, chunk, num_kv_heads, scale
        )
    if plan.decodes:
        rows = query.index_select(0, plan.decode_rows)
        attended = torch.empty_like(rows)
        for group in plan.decodes:
            attended[group.start : group.stop] = _attend_decodes(
                rows[group.start : group.stop], blocks, group, num_kv_heads, scale
            )
        output.index_copy_(0, plan.decode_rows, attended)
    return output


def _attend_chunk(query: Tensor, blocks: Tensor, chunk: Chunk, num_kv_heads: int, scale: float) -> Tensor:
    head_dim = query.shape[2]
    tokens = slice(chunk.skipped, chunk.skipped + chunk.num_keys)
    keys = blocks.index_select(0, chunk.key_blocks).view(-1, num_kv_heads, head_dim)[tokens]
    values = blocks.index_select(0, chunk.value_blocks).view(-1, num_kv_heads, head_dim)[tokens]
    attended = scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0),  # [1, num_heads, num_rows, head_dim]
        keys.transpose(0, 1).unsqueeze(0),  # [1, num_kv_heads, num_keys, head_dim]
        values.transpose(0, 1).unsqueeze(0),
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        scale=scale,
        enable_gqa=num_kv_heads != query.shape[1],
    )
    return attended.squeeze(0).transpose(0, 1)


def _attend_decodes(query: Tensor, blocks: Tensor, group: DecodeGroup, num_kv_heads: int, scale: float) -> Tensor:
    num_seqs, num_heads, head_dim = query.shape
    keys = blocks.index_select(0, group.key_blocks).view(-1, num_kv_heads * head_dim)
    values = blocks.index_select(0, group.value_blocks).view(-1, num_kv_heads * head_dim)
    if group.unwritten is not None:
        # A mask alone does not do: what was never written may be NaN, and 0 * NaN is NaN.
        keys.index_fill_(0, group.unwritten, 0.0)
        values.index_fill_(0, group.unwritten, 0.0)
    # The query heads of a KV head stand in the place of query rows, so that no key is repeated for them.
    attended = scaled_dot_product_attention(
        query.view(num_seqs, num_kv_heads, num_heads // num_kv_heads, head_dim),
        keys.view(num_seqs, -1, num_kv_heads, head_dim).transpose(1, 2),  # [n, num_kv_heads, num_tokens, head_dim]
        values.view(num_seqs, -1, num_kv_heads, head_dim).transpose(1, 2),
        attn_mask=group.mask,
        scale=scale,
    )
    return attended.reshape(num_seqs, num_heads, head_dim)
