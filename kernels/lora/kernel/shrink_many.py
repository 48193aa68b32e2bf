"""MBGMM's shrink: tiles of many rows of an adapter times its rank rows."""

import triton
import triton.language as tl

from kernels.lora.kernel.matrix import rank_rows, runs_of
from kernels.lora.kernel.tiling import adapter_of, num_pages_of, places_of, room_of


@triton.jit
def many_tiles(
    tile,
    end_tile,
    step,
    x,
    pages,
    page_table,
    starts,
    records,
    bridge,
    x_stride,
    table_stride,
    MODULES: tl.constexpr,
    WIDTH: tl.constexpr,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    PIECES: tl.constexpr,
    ROUNDS: tl.constexpr,
    RECORD: tl.constexpr,
    ROWWISE: tl.constexpr,
    SPLIT: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    LIVE: tl.constexpr,
    STAGES: tl.constexpr,
    STEPS: tl.constexpr,
    PRECISION: tl.constexpr,
    ON_GPU: tl.constexpr,
):
    """Every `step`th tile from `tile` to `end_tile`: a piece of the inputs if `SPLIT`, or all of them."""
    ALL_SPANS: tl.constexpr = (IN + SPANS * SPAN - 1) // (SPANS * SPAN) * SPANS
    many_starts = tl.load(starts + tl.arange(0, LIVE))
    while tile < end_tile:
        live = adapter_of(many_starts, tile)
        record = records + live * RECORD
        row = tl.load(record)
        num_rows = tl.load(record + 1)
        table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
        room = room_of(tl.load(record + 3))  # the same, but now the compiler knows that it is a multiple
        num_blocks = (room + RANKS - 1) // RANKS
        local = tile - tl.load(starts + live)
        piece = local // num_blocks % PIECES
        t = local // num_blocks // PIECES * ROWS + tl.arange(0, ROWS)
        r = local % num_blocks * RANKS + tl.arange(0, RANKS)
        rank_row, is_rank = rank_rows(record, r, MODULES, IN)
        total = _many_rows(
            x + (row + t)[:, None].to(tl.int64) * x_stride,
            t < num_rows,
            pages,
            table,
            rank_row,
            is_rank,
            piece * (ROUNDS * SPANS),
            tl.minimum((piece + 1) * (ROUNDS * SPANS) if SPLIT else ALL_SPANS, ALL_SPANS),
            IN,
            PAGE,
            SPAN,
            SPANS,
            ROUNDS,
            ROWWISE,
            STAGES,
            STEPS,
            ROWS,
            RANKS,
            PRECISION,
            ON_GPU,
        )  # [ROWS, RANKS]
        at = bridge + ((row + t)[:, None].to(tl.int64) * PIECES + piece) * WIDTH + r[None, :]
        tl.store(at, total, mask=(t < num_rows)[:, None] & (r < room)[None, :])
        tile += step


@triton.jit
def _many_rows(
    x,
    is_row,
    pages,
    table,
    rank_row,
    is_rank,
    first_span,
    end,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    ROUNDS: tl.constexpr,
    ROWWISE: tl.constexpr,
    STAGES: tl.constexpr,
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
    ON_GPU: tl.constexpr,
):
    """Consecutive pieces of many rows' product, added in the order in which few rows' are."""
    STEP: tl.constexpr = SPAN // STEPS
    k = tl.arange(0, STEP)
    NUM_PAGES: tl.constexpr = num_pages_of(IN, PAGE)
    places = places_of(table, rank_row, IN, is_rank, PAGE, NUM_PAGES)
    total = tl.zeros((ROWS, RANKS), tl.float32)
    piece = tl.zeros((ROWS, RANKS), tl.float32)
    part = tl.zeros((ROWS, RANKS), tl.float32)
    product = tl.zeros((ROWS, RANKS), tl.float32)
    for step in tl.range(first_span * STEPS, end * STEPS, num_stages=STAGES):
        start = step * STEP + tl.zeros((1,), tl.int32)
        a = runs_of(pages, table, rank_row, places, start, is_rank, IN, PAGE, NUM_PAGES, ROWWISE, STEP)
        is_x = is_row[:, None] & (step * STEP < IN)
        if not ROWWISE:
            is_x = is_x & (step * STEP + k < IN)[None, :]
        rows = tl.load(x + (step * STEP + k)[None, :], mask=is_x, other=0.0)
        product = tl.dot(rows, tl.trans(tl.reshape(a, (RANKS, STEP))), product, input_precision=PRECISION)
        if STEPS == 1 and ON_GPU:
            # Or the compiler would continue the last span's chain in this one.
            product = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [product], tl.float32, is_pure=True, pack=1)
        is_span = step % STEPS == STEPS - 1
        part = tl.where(is_span, part + product, part)
        product = tl.where(is_span, 0.0, product)
        is_round = step % (SPANS * STEPS) == SPANS * STEPS - 1
        piece = tl.where(is_round, piece + part, piece)
        part = tl.where(is_round, 0.0, part)
        is_piece = step % (ROUNDS * SPANS * STEPS) == ROUNDS * SPANS * STEPS - 1
        total = tl.where(is_piece, total + piece, total)
        piece = tl.where(is_piece, 0.0, piece)
    return total + piece
