"""Attention batches drawn at random over poisoned pages."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention import AttentionBatch
from kernels.paging import naive as naive_paging


@dataclass(frozen=True)
class Heads:
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Case:
    pages: Tensor
    query: Tensor
    batch: AttentionBatch


def draw_case(
    seqs: list[tuple[int, int]],
    heads: Heads,
    block_size: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    max_blocks: int | None = None,
    unused_rows: int = 0,
) -> Case:
    """`seqs` are (context, rows) of each sequence. Nothing but their own tokens and rows is a number."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [-(-context // block_size) for context, _ in seqs]
    free = rng.sample(range(sum(sizes) + 3), sum(sizes) + 3)
    kv_width = heads.num_kv_heads * heads.head_dim
    pages = torch.full((len(free), 2 * block_size * kv_width), torch.nan, dtype=dtype)
    table = torch.full((len(seqs), max_blocks or max(sizes) + 1), -1, dtype=torch.int32)
    slots = []
    for seq, (context, rows) in enumerate(seqs):
        held = [free.pop() for _ in range(sizes[seq])]
        table[seq, : len(held)] = torch.tensor(held)
        own = [held[position // block_size] * block_size + position % block_size for position in range(context)]
        kv = torch.randn(2, context, heads.num_kv_heads, heads.head_dim).to(dtype)
        naive_paging.write_kv(pages, kv[0], kv[1], torch.tensor(own), block_size)
        slots += own[context - rows :]
    counts = torch.tensor([rows for _, rows in seqs])
    batch = AttentionBatch(
        query_start=torch.cat((torch.zeros(1), counts.cumsum(0))).int().to(device),
        context_lens=torch.tensor([context for context, _ in seqs], dtype=torch.int32, device=device),
        block_table=table.to(device),
        kv_slots=torch.tensor(slots, dtype=torch.int64, device=device),
        max_query_len=int(counts.max()),
    )
    query = torch.randn(int(counts.sum()) + unused_rows, heads.num_heads, heads.head_dim).to(dtype)
    query[int(counts.sum()) :] = torch.nan
    return Case(pages.to(device), query.to(device), batch)
