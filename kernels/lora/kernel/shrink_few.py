"""MBGMV's shrink: tiles of rank rows times the few rows of their adapter."""

import triton
import triton.language as tl

from kernels.lora.kernel.matrix import few_of, runs_of
from kernels.lora.kernel.tiling import adapter_of, num_pages_of, places_of


@triton.jit
def one_tile(
    tile,
    x,
    pages,
    page_table,
    starts,
    few_starts,
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
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One piece of a tile. Its matrix, which no earlier kernel writes, is asked for while the one before still runs."""
    ALL_ROUNDS: tl.constexpr = (IN + SPANS * SPAN - 1) // (SPANS * SPAN)
    row, num_rows, table, room, piece, r, rank_row, is_rank = _few_of(
        tile, starts, few_starts, records, page_table, table_stride, MODULES, IN, PIECES, RECORD, FEW, RANKS
    )
    NUM_PAGES: tl.constexpr = num_pages_of(IN, PAGE)
    places = places_of(table, rank_row, IN, is_rank, PAGE, NUM_PAGES)
    first = piece * ROUNDS
    start = (first * SPANS + tl.arange(0, SPANS)) * SPAN
    a = runs_of(pages, table, rank_row, places, start, is_rank, IN, PAGE, NUM_PAGES, ROWWISE, SPAN)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    rows = _few_x(x, x_stride, row, num_rows, start, IN, ROWWISE, SPAN, FEW)
    total = _round_of(a, rows, PRECISION)
    if ROUNDS > 1:
        for now in tl.range(first + 1, tl.minimum(first + ROUNDS, ALL_ROUNDS), num_stages=STAGES):
            start = (now * SPANS + tl.arange(0, SPANS)) * SPAN
            a = runs_of(pages, table, rank_row, places, start, is_rank, IN, PAGE, NUM_PAGES, ROWWISE, SPAN)
            rows = _few_x(x, x_stride, row, num_rows, start, IN, ROWWISE, SPAN, FEW)
            total += _round_of(a, rows, PRECISION)
    t = tl.arange(0, FEW)
    at = bridge + ((row + t)[None, :].to(tl.int64) * PIECES + piece) * WIDTH + r[:, None]
    tl.store(at, total, mask=(t < num_rows)[None, :] & (r < room)[:, None])


@triton.jit
def neighbours(
    tile,
    end,
    x,
    pages,
    page_table,
    starts,
    few_starts,
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
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Tiles `[tile, end)`. Each round is read ahead of the one before, also where the rank rows change.

    Tables, which no earlier kernel writes, are read while the one before still runs: page ids too.
    """
    ALL_ROUNDS: tl.constexpr = (IN + SPANS * SPAN - 1) // (SPANS * SPAN)
    t = tl.arange(0, FEW)
    row, num_rows, table, room, _, r, rank_row, is_rank = _few_of(
        tile, starts, few_starts, records, page_table, table_stride, MODULES, IN, PIECES, RECORD, FEW, RANKS
    )
    NUM_PAGES: tl.constexpr = num_pages_of(IN, PAGE)
    places = places_of(table, rank_row, IN, is_rank, PAGE, NUM_PAGES)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((RANKS, FEW), tl.float32)
    pieces = tl.zeros((RANKS, FEW), tl.float32)
    begin = tile // PIECES * ALL_ROUNDS + tile % PIECES * ROUNDS
    for now in tl.range(begin, end // PIECES * ALL_ROUNDS + end % PIECES * ROUNDS, num_stages=STAGES):
        turn = now % ALL_ROUNDS
        if (turn == 0) & (now > begin):
            row, num_rows, table, room, _, r, rank_row, is_rank = _few_of(
                now // ALL_ROUNDS * PIECES, starts, few_starts, records, page_table, table_stride, MODULES, IN, PIECES,
                RECORD, FEW, RANKS,
            )  # fmt: skip
            places = places_of(table, rank_row, IN, is_rank, PAGE, NUM_PAGES)
        start = (turn * SPANS + tl.arange(0, SPANS)) * SPAN
        a = runs_of(pages, table, rank_row, places, start, is_rank, IN, PAGE, NUM_PAGES, ROWWISE, SPAN)
        rows = _few_x(x, x_stride, row, num_rows, start, IN, ROWWISE, SPAN, FEW)
        total = tl.where(turn % ROUNDS == 0, 0.0, total) + _round_of(a, rows, PRECISION)
        is_whole = (turn % ROUNDS == ROUNDS - 1) | (turn == ALL_ROUNDS - 1)
        piece, sums = turn // ROUNDS, total
        if PIECES == 1 and ROUNDS < ALL_ROUNDS:  # the sum leaves in one piece: its own are added here, in their order
            pieces = tl.where(turn == 0, 0.0, pieces)
            pieces = tl.where(is_whole, pieces + total, pieces)
            is_whole, piece, sums = turn == ALL_ROUNDS - 1, 0, pieces
        at = bridge + ((row + t)[None, :].to(tl.int64) * PIECES + piece) * WIDTH + r[:, None]
        tl.store(at, sums, mask=(t < tl.where(is_whole, num_rows, 0))[None, :] & (r < room)[:, None])


@triton.jit
def _few_of(
    tile,
    starts,
    few_starts,
    records,
    page_table,
    table_stride,
    MODULES: tl.constexpr,
    IN: tl.constexpr,
    PIECES: tl.constexpr,
    RECORD: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
):
    """A tile's first row and rows, its adapter's pages and columns of the bridge, and which piece of which of these.

    Of these columns, too, what `rank_rows` tells.
    """
    live, ranks = adapter_of(few_starts, tile), tl.arange(0, RANKS)
    row, num_rows, table, piece, column, room, rank_row, is_rank = few_of(
        live, tile, ranks, starts, records, page_table, table_stride, MODULES, IN, PIECES, RECORD, FEW, RANKS
    )
    return row, num_rows, table, room, piece, column + ranks, rank_row, is_rank


@triton.jit
def _round_of(a, rows, PRECISION: tl.constexpr):
    """What a round gives: `a` `[SPANS, ranks, SPAN]` times `rows` `[SPANS, FEW, SPAN]`, `[ranks, FEW]`."""
    products = tl.dot(a, tl.trans(rows, (0, 2, 1)), input_precision=PRECISION)
    shape: tl.constexpr = products.shape
    front, back = tl.split(tl.trans(tl.reshape(products, (2, 2, shape[1], shape[2])), (2, 3, 1, 0)))
    first, second = tl.split(front)
    third, fourth = tl.split(back)
    return ((first + second) + third) + fourth


@triton.jit
def _few_x(
    x, x_stride, row, num_rows, start, IN: tl.constexpr, ROWWISE: tl.constexpr, SPAN: tl.constexpr, FEW: tl.constexpr
):
    """Spans of few rows' inputs, `[SPANS, FEW, SPAN]`."""
    t = tl.arange(0, FEW)
    at = start[:, None, None] + tl.arange(0, SPAN)[None, None, :]
    mask = (t < num_rows)[None, :, None] & (start < IN)[:, None, None]
    if not ROWWISE:
        mask = mask & (at < IN)
    return tl.load(x + (row + t)[None, :, None].to(tl.int64) * x_stride + at, mask=mask, other=0.0)
