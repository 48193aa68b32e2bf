"""Prefill attention in Triton: sequences of several rows, a tile of rows and a KV head for each program.

A tile holds the query heads of one KV head for some consecutive rows of one sequence. It first meets the tokens that
all its rows see, without a mask, then those at its border.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from kernels.launch import launch


def attend_chunks(
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
    """Writes the rows of `output` whose sequence has others; arguments as of `kernels.attention.paged_attention`."""
    num_rows, num_heads, head_dim = query.shape
    num_seqs = batch.block_table.shape[0]
    group = num_heads // num_kv_heads
    is_wide = query.dtype == torch.float32
    block_rows = max(64 if is_wide else 128, triton.next_power_of_2(group))
    # Sequence s starts at tile `query_start[s] // rows_of_a_tile + s`: no more tiles than these, whatever its rows.
    num_tiles = num_rows // (block_rows // group) + num_seqs
    launch(
        _prefill,
        (num_tiles * num_kv_heads,),
        output,
        query,
        pages,
        batch.query_start,
        batch.context_lens,
        batch.block_table,
        num_seqs,
        num_tiles,
        pages.shape[0],
        output.stride(0),
        query.stride(0),
        query.stride(1),
        pages.stride(0),
        batch.block_table.stride(0),
        batch.block_table.shape[1] * block_size,
        scale * 1.4426950408889634,  # of log2(e), for exp2
        window or 0,
        HAS_WINDOW=window is not None,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        HEAD_PAD=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_SIZE=block_size,
        BLOCK_ROWS=block_rows,
        BLOCK_TOKENS=32 if is_wide else 64,
        BLOCK_SEQS=max(64, triton.next_power_of_2(num_seqs)),
        num_warps=8,
        num_stages=2 if is_wide else 3,
    )


@triton.jit(do_not_specialize=["num_seqs", "num_tiles", "num_pages", "table_stride", "capacity", "window"])
def _prefill(
    output,
    query,
    pages,
    query_start,
    context_lens,
    block_table,
    num_seqs,
    num_tiles,
    num_pages,
    output_stride,
    query_stride,
    query_head_stride,
    page_stride,
    table_stride,
    capacity,
    scale_log2,
    window,
    HAS_WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_SEQS: tl.constexpr,
):
    TILE_ROWS: tl.constexpr = BLOCK_ROWS // GROUP
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    tile = num_tiles - 1 - tl.program_id(0) // NUM_KV_HEADS  # the last rows see most tokens, and go first
    seqs = tl.arange(0, BLOCK_SEQS)
    starts = tl.load(query_start + seqs, seqs < num_seqs, other=0)
    begun = (seqs < num_seqs) & (starts // TILE_ROWS + seqs <= tile)
    seq = tl.sum(begun.to(tl.int32), 0) - 1
    seq_start = tl.load(query_start + seq)
    num_rows = tl.load(query_start + seq + 1) - seq_start
    tile_start = (tile - seq_start // TILE_ROWS - seq) * TILE_ROWS  # in the sequence's rows
    if (num_rows > 1) & (tile_start < num_rows):
        context = tl.minimum(tl.load(context_lens + seq), capacity)
        lane = tl.arange(0, BLOCK_ROWS)
        row = tile_start + lane // GROUP
        is_row = (lane < TILE_ROWS * GROUP) & (row < num_rows)
        positions = context - num_rows + row
        dims = tl.arange(0, HEAD_PAD)
        head = kv_head * GROUP + lane % GROUP
        global_row = (seq_start + row).to(tl.int64)
        is_query = is_row[:, None] & (dims < HEAD_DIM)[None, :]
        q = tl.load(
            query + global_row[:, None] * query_stride + head[:, None] * query_head_stride + dims[None, :],
            is_query,
            other=0.0,
        )  # [BLOCK_ROWS, HEAD_PAD]

        # Tokens [first, stop) are seen by some row, [full_first, full_stop) by all.
        first_position = context - num_rows + tile_start
        last_position = tl.minimum(first_position + TILE_ROWS, context) - 1
        stop = last_position + 1
        first = 0
        full_first = 0
        if HAS_WINDOW:
            first = tl.maximum(first_position - window + 1, 0) // BLOCK_TOKENS * BLOCK_TOKENS
            full_first = tl.cdiv(tl.maximum(last_position - window + 1, 0), BLOCK_TOKENS) * BLOCK_TOKENS
        full_stop = tl.maximum((first_position + 1) // BLOCK_TOKENS * BLOCK_TOKENS, full_first)

        table = block_table + seq.to(tl.int64) * table_stride
        keys = pages + kv_head * HEAD_DIM
        highest = tl.full((BLOCK_ROWS,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_ROWS,), tl.float32)
        attended = tl.zeros((BLOCK_ROWS, HEAD_PAD), tl.float32)
        if HAS_WINDOW:
            attended, total, highest = _attend(
                attended, total, highest, q, keys, table, first, tl.minimum(full_first, stop), stop,
                positions, window, num_pages, page_stride, scale_log2,
                True, True, NUM_KV_HEADS, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_TOKENS,
            )  # fmt: skip
        attended, total, highest = _attend(
            attended, total, highest, q, keys, table, full_first, full_stop, stop,
            positions, window, num_pages, page_stride, scale_log2,
            False, HAS_WINDOW, NUM_KV_HEADS, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_TOKENS,
        )  # fmt: skip
        attended, total, highest = _attend(
            attended, total, highest, q, keys, table, full_stop, stop, stop,
            positions, window, num_pages, page_stride, scale_log2,
            True, HAS_WINDOW, NUM_KV_HEADS, HEAD_DIM, HEAD_PAD, BLOCK_SIZE, BLOCK_TOKENS,
        )  # fmt: skip
        tl.store(
            output + global_row[:, None] * output_stride + head[:, None] * HEAD_DIM + dims[None, :],
            (attended / tl.where(total == 0.0, 1.0, total)[:, None]).to(output.dtype.element_ty),
            is_query,
        )


@triton.jit
def _attend(
    attended,
    total,
    highest,
    q,
    pages,
    table,
    begin,
    end,
    stop,
    positions,
    window,
    num_pages,
    page_stride,
    scale_log2,
    MASKED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
):
    """Online softmax over tokens `[begin, end)`, of which those from `stop` on are not there."""
    VALUES: tl.constexpr = BLOCK_SIZE * NUM_KV_HEADS * HEAD_DIM
    dims = tl.arange(0, HEAD_PAD)
    for start in tl.range(begin, end, BLOCK_TOKENS):
        tokens = start + tl.arange(0, BLOCK_TOKENS)
        if MASKED:
            page = tl.load(table + tokens // BLOCK_SIZE, tokens < stop, other=0)
        else:
            page = tl.load(table + tokens // BLOCK_SIZE)
        page = tl.minimum(page.to(tl.uint32), (num_pages - 1).to(tl.uint32))  # nothing outside is read
        offsets = page.to(tl.int64) * page_stride + (tokens % BLOCK_SIZE) * (NUM_KV_HEADS * HEAD_DIM)
        key_pointers = pages + offsets[None, :] + dims[:, None]
        value_pointers = pages + VALUES + offsets[:, None] + dims[None, :]
        if MASKED:
            is_key = (tokens < stop)[None, :] & (dims < HEAD_DIM)[:, None]
            keys = tl.load(key_pointers, is_key, other=0.0)  # [HEAD_PAD, BLOCK_TOKENS]
            values = tl.load(value_pointers, (tokens < stop)[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
        elif HEAD_DIM == HEAD_PAD:
            keys = tl.load(key_pointers)
            values = tl.load(value_pointers)
        else:
            keys = tl.load(key_pointers, (dims < HEAD_DIM)[:, None], other=0.0)
            values = tl.load(value_pointers, (dims < HEAD_DIM)[None, :], other=0.0)
        scores = tl.dot(q, keys, input_precision="ieee")
        if MASKED:
            seen = tokens[None, :] <= positions[:, None]
            if HAS_WINDOW:
                seen &= tokens[None, :] > positions[:, None] - window
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale_log2)
        base = higher
        if MASKED:  # a row may have seen nothing yet
            base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores * scale_log2 - base[:, None])
        fade = tl.exp2(highest - base)
        total = total * fade + tl.sum(weights, 1)
        attended = attended * fade[:, None]
        attended = tl.dot(weights.to(values.dtype), values, attended, input_precision="ieee")
        highest = higher
    return attended, total, highest
