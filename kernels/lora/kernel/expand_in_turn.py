"""Expand: tiles of a few rows times runs of columns of their adapter's matrix, one after the other."""

import triton
import triton.language as tl

from kernels.lora.kernel.delta import part_of, sum_of
from kernels.lora.kernel.matrix import runs_of
from kernels.lora.kernel.tiling import places_of, room_of


@triton.jit
def add_in_turn(
    output,
    stride,
    width,
    scale,
    bridge,
    row,
    num_rows,
    pages,
    table,
    place,
    rank,
    column,
    count,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    NUM_PAGES: tl.constexpr,
    COLUMNS: tl.constexpr,
    RUNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    BY_RANK: tl.constexpr,
    HAS_LATER: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Adds to `count` tiles of up to `ROWS` rows, each of `RUNS` runs of columns, one for each warp.

    `RANKS` are multiplied at a time; if `BY_RANK`, half or a quarter of them where the adapter has no more.
    """
    if BY_RANK and RANKS > 16 and rank <= RANKS // 2:
        add_in_turn(
            output, stride, width, scale, bridge, row, num_rows, pages, table, place, rank, column, count, PIECES,
            WIDTH, PAGE, NUM_PAGES, COLUMNS, RUNS, ROWWISE, ROWS, RANKS // 2, True, False, STAGES, PRECISION, CHAINED,
        )  # fmt: skip
    else:
        PADDED: tl.constexpr = max(16, ROWS)  # as many rows as a tensor core takes
        r = tl.arange(0, RANKS)
        parts = bridge + row.to(tl.int64) * (PIECES * WIDTH)
        outs = output + row.to(tl.int64) * stride
        rows = place + r * width
        places = places_of(table, rows, width, r < rank, PAGE, NUM_PAGES)
        if CHAINED:
            tl.extra.cuda.gdc_wait()
        part = _part_of(parts, num_rows, r, rank, pages.dtype.element_ty, PIECES, WIDTH, ROWS, PADDED, RUNS)
        num_fast = tl.where(rank > RANKS, 0, count) if HAS_LATER else count
        for now in tl.range(column, column + num_fast, num_stages=STAGES):
            start = (now * RUNS + tl.arange(0, RUNS)) * COLUMNS
            b = runs_of(pages, table, rows, places, start, r < rank, width, PAGE, NUM_PAGES, ROWWISE, COLUMNS)
            total = tl.dot(part, b, input_precision=PRECISION)  # [RUNS, PADDED, COLUMNS]
            _add(outs, stride, total, scale, start, num_rows, width, COLUMNS, RUNS, ROWWISE, ROWS)
        if HAS_LATER:
            for now in tl.range(column + num_fast, column + count, num_stages=1):
                start = (now * RUNS + tl.arange(0, RUNS)) * COLUMNS
                total = tl.zeros((RUNS, PADDED, COLUMNS), tl.float32)
                for block in tl.range(0, rank, RANKS, num_stages=1):
                    later = block + r
                    part = _part_of(
                        parts, num_rows, later, rank, pages.dtype.element_ty, PIECES, WIDTH, ROWS, PADDED, RUNS
                    )
                    rows = place + later * width
                    b = runs_of(pages, table, rows, places, start, later < rank, width, PAGE, 0, ROWWISE, COLUMNS)
                    total = tl.dot(part, b, total, input_precision=PRECISION)
                _add(outs, stride, total, scale, start, num_rows, width, COLUMNS, RUNS, ROWWISE, ROWS)


@triton.jit
def _add(
    outs,
    stride,
    total,
    scale,
    start,
    num_rows,
    width,
    COLUMNS: tl.constexpr,
    RUNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Adds the first `num_rows` rows of `total`, `[RUNS, 16 or more, COLUMNS]`, to runs of columns from `start` on."""
    t = tl.arange(0, ROWS)
    share = total
    if ROWS < 16:
        share, _ = tl.split(tl.trans(tl.reshape(total, (RUNS, 2, ROWS, COLUMNS)), (0, 2, 3, 1)))
    columns = start[:, None] + tl.arange(0, COLUMNS)[None, :]
    inside = (start < width)[:, None] if ROWWISE else columns < width  # one for a run leaves its load one
    mask = inside[:, None, :] & (t < num_rows)[None, :, None]
    at = outs + t.to(tl.int64)[None, :, None] * stride + columns[:, None, :]
    old = tl.load(at, mask=mask, other=0.0)
    tl.store(at, sum_of(old, share, scale).to(outs.dtype.element_ty), mask=mask)


@triton.jit
def _part_of(
    parts,
    num_rows,
    r,
    rank,
    dtype: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    PADDED: tl.constexpr,
    RUNS: tl.constexpr,
):
    """Ranks `r` of a few rows for each run, filled up to `PADDED` rows."""
    t = tl.arange(0, PADDED)
    at = parts + t[:, None] * (PIECES * WIDTH) + r[None, :]
    there = (t < tl.minimum(num_rows, ROWS))[:, None] & (r < room_of(rank))[None, :]
    part = part_of(at, there, (r < rank)[None, :], dtype, PIECES, WIDTH)
    return tl.broadcast_to(part[None, :, :], (RUNS, PADDED, r.shape[0]))
