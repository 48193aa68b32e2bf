"""Decode attention in Triton: one row of each sequence, its KV split over programs.

The tokens that a row sees are cut in splits whose size follows from their number alone, so that a row's result does
not depend on the rest of the batch. A fixed number of programs takes the splits of all sequences and KV heads in turn;
the query heads of a KV head share its loads. A second kernel adds up the splits of a row, in order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from kernels.attention.kernel.merge import BLOCK_TOKENS, Splits, merge
from kernels.device import num_processors
from kernels.launch import launch

# Fewer tokens a split fill the GPU at small batches, but each costs a write and a read of a partial sum in float32.
MIN_SPLIT_TOKENS = 256
PROGRAMS_PER_SM = 3
INTERPRETED_PROGRAMS = 3


def attend_decodes(
    output: Tensor,
    query: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    *,
    num_kv_heads: int,
    block_size: int,
    scale: float,
    window: int | None,
) -> None:
    """Writes the rows of `output` whose sequence has no other; arguments as of `kernels.attention.paged_attention`."""
    num_heads, head_dim = query.shape[1:]
    num_seqs = batch.block_table.shape[0]
    group = num_heads // num_kv_heads
    block_tokens = BLOCK_TOKENS if query.dtype.itemsize < 4 else BLOCK_TOKENS // 2
    counts = batch.context_lens.new_empty(num_seqs)
    splits = Splits.of(query, batch, num_kv_heads, block_size, window, MIN_SPLIT_TOKENS)
    launch(
        _decode,
        (_num_programs(query.device),),
        output,
        query,
        pages,
        batch.query_start,
        batch.context_lens,
        batch.block_table,
        splits.partial,
        splits.stats,
        counts,
        num_seqs,
        pages.shape[0],
        output.stride(0),
        query.stride(0),
        query.stride(1),
        pages.stride(0),
        batch.block_table.stride(0),
        batch.block_table.shape[1] * block_size,
        splits.held,
        scale * 1.4426950408889634,  # of log2(e), for exp2
        window or 0,
        HAS_WINDOW=window is not None,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        GROUP_PAD=max(16, triton.next_power_of_2(group)),
        HEAD_DIM=head_dim,
        HEAD_PAD=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_SIZE=block_size,
        BLOCK_TOKENS=block_tokens,
        MIN_SPLIT=splits.min_tokens,
        MAX_SPLITS=splits.max_splits,
        BLOCK_SEQS=max(64, triton.next_power_of_2(num_seqs)),
        num_warps=2 if query.dtype.itemsize < 4 else 4,
        num_stages=5,
    )
    merge(output, splits, counts, batch, chained=False)


def _num_programs(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    return PROGRAMS_PER_SM * num_processors(device)


@triton.jit
def _split_tokens(visible, MIN_SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Of even splits: as many as have `MIN_SPLIT` tokens each."""
    number = tl.minimum(tl.maximum(visible // MIN_SPLIT, 1), MAX_SPLITS)
    return tl.maximum(tl.cdiv(tl.cdiv(visible, number), BLOCK_TOKENS), 1) * BLOCK_TOKENS


@triton.jit(do_not_specialize=["num_seqs", "num_pages", "table_stride", "capacity", "held_splits", "window"])
def _decode(
    output,
    query,
    pages,
    query_start,
    context_lens,
    block_table,
    partial,
    stats,
    counts,
    num_seqs,
    num_pages,
    output_stride,
    query_stride,
    query_head_stride,
    page_stride,
    table_stride,
    capacity,
    held_splits,
    scale_log2,
    window,
    HAS_WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    BLOCK_SEQS: tl.constexpr,
):
    VALUES: tl.constexpr = BLOCK_SIZE * NUM_KV_HEADS * HEAD_DIM  # of a page, where its values begin

    seqs = tl.arange(0, BLOCK_SEQS)
    exists = seqs < num_seqs
    starts = tl.load(query_start + seqs, exists, other=0)
    num_rows = tl.load(query_start + seqs + 1, exists, other=0) - starts
    visible = tl.minimum(tl.load(context_lens + seqs, exists, other=0), capacity)
    if HAS_WINDOW:
        visible = tl.minimum(visible, window)
    visible = tl.where(num_rows == 1, visible, 0)
    splits = tl.cdiv(visible, _split_tokens(visible, MIN_SPLIT, MAX_SPLITS, BLOCK_TOKENS))
    ends = tl.cumsum(splits, 0)  # [BLOCK_SEQS]; splits of the sequences up to this one
    num_items = tl.sum(splits, 0) * NUM_KV_HEADS
    if tl.program_id(0) == 0:
        tl.store(counts + seqs, splits, exists)

    heads = tl.arange(0, GROUP_PAD)
    dims = tl.arange(0, HEAD_PAD)
    is_head = heads < GROUP
    is_dim = dims < HEAD_DIM

    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        kv_head = item % NUM_KV_HEADS
        before = ends <= item // NUM_KV_HEADS
        seq = tl.sum(before.to(tl.int32), 0)
        split = item // NUM_KV_HEADS - tl.max(tl.where(before, ends, 0), 0)
        context = tl.minimum(tl.load(context_lens + seq), capacity)
        first = 0
        if HAS_WINDOW:
            first = tl.maximum(context - window, 0)
        split_tokens = _split_tokens(context - first, MIN_SPLIT, MAX_SPLITS, BLOCK_TOKENS)
        num_splits = tl.cdiv(context - first, split_tokens)
        begin = first + split * split_tokens
        end = tl.minimum(begin + split_tokens, context)

        row = tl.load(query_start + seq).to(tl.int64)
        q = tl.load(
            query + row * query_stride + (kv_head * GROUP + heads)[:, None] * query_head_stride + dims[None, :],
            is_head[:, None] & is_dim[None, :],
            other=0.0,
        )  # [GROUP_PAD, HEAD_PAD]
        table = block_table + seq.to(tl.int64) * table_stride
        highest = tl.full((GROUP_PAD,), float("-inf"), tl.float32)
        total = tl.zeros((GROUP_PAD,), tl.float32)
        attended = tl.zeros((GROUP_PAD, HEAD_PAD), tl.float32)
        for start in tl.range(begin, end, BLOCK_TOKENS):
            tokens = start + tl.arange(0, BLOCK_TOKENS)
            live = tokens < end
            page = tl.load(table + tokens // BLOCK_SIZE, live, other=0)
            page = tl.minimum(page.to(tl.uint32), (num_pages - 1).to(tl.uint32))  # nothing outside is read
            offsets = page.to(tl.int64) * page_stride + ((tokens % BLOCK_SIZE) * NUM_KV_HEADS + kv_head) * HEAD_DIM
            keys = tl.load(
                pages + offsets[None, :] + dims[:, None], live[None, :] & is_dim[:, None], other=0.0
            )  # [HEAD_PAD, BLOCK_TOKENS]
            values = tl.load(
                pages + VALUES + offsets[:, None] + dims[None, :], live[:, None] & is_dim[None, :], other=0.0
            )  # [BLOCK_TOKENS, HEAD_PAD]
            scores = tl.dot(q, keys, input_precision="ieee") * scale_log2
            scores = tl.where(live[None, :], scores, float("-inf"))
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            fade = tl.exp2(highest - higher)
            total = total * fade + tl.sum(weights, 1)
            attended = attended * fade[:, None]
            attended = tl.dot(weights.to(values.dtype), values, attended, input_precision="ieee")
            highest = higher

        if num_splits == 1:
            tl.store(
                output + row * output_stride + (kv_head * GROUP + heads)[:, None] * HEAD_DIM + dims[None, :],
                (attended / total[:, None]).to(output.dtype.element_ty),
                is_head[:, None] & is_dim[None, :],
            )
        else:
            slots = ((seq * NUM_KV_HEADS + kv_head).to(tl.int64) * GROUP + heads) * held_splits + split
            tl.store(partial + slots[:, None] * HEAD_DIM + dims[None, :], attended, is_head[:, None] & is_dim[None, :])
            tl.store(stats + slots * 2, highest, is_head)
            tl.store(stats + slots * 2 + 1, total, is_head)
