"""MBGMM's expand in large batches: a run of columns of a matrix times tiles of the many rows of its adapter."""

import triton
import triton.language as tl

from kernels.lora.kernel.delta import part_of, sum_of
from kernels.lora.kernel.tiling import page_of, room_of


@triton.jit
def many_rows(
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
    start,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    MOST_ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    HAS_LATER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds to a run of columns of up to `MOST_ROWS` rows, `ROWS` at a time, read while those before are added to."""
    t = tl.arange(0, ROWS)
    n = start + tl.arange(0, COLUMNS)
    r = tl.arange(0, RANKS)
    dtype = pages.dtype.element_ty
    end = tl.minimum(MOST_ROWS, num_rows)
    is_column = (n < width)[None, :]
    is_rank, is_room = (r < rank)[None, :], (r < room_of(rank))[None, :]
    b = b_columns(pages, table, place, rank, r, start, width, PAGE, COLUMNS, ROWWISE)
    parts = bridge + (row + t).to(tl.int64)[:, None] * (PIECES * WIDTH) + r[None, :]
    outs = output + (row + t).to(tl.int64)[:, None] * stride + n[None, :]
    part = part_of(parts, (t < num_rows)[:, None] & is_room, is_rank, dtype, PIECES, WIDTH)
    old = tl.load(outs, mask=(t < num_rows)[:, None] & is_column, other=0.0)
    for step in tl.range(0, end, ROWS, num_stages=1):
        is_next = (step + ROWS + t < end)[:, None]
        next_parts = parts + ROWS * (PIECES * WIDTH)
        next_part = part_of(next_parts, is_next & is_room, is_rank, dtype, PIECES, WIDTH)
        next_outs = outs + ROWS * stride
        next_old = tl.load(next_outs, mask=is_next & is_column, other=0.0)
        is_row = (step + t < num_rows)[:, None]
        share = tl.dot(part, b, input_precision=PRECISION)
        for block in tl.range(RANKS, rank if HAS_LATER else 0, RANKS, num_stages=1):
            later = block + r
            more_b = b_columns(pages, table, place, rank, later, start, width, PAGE, COLUMNS, ROWWISE)
            there = is_row & (later < room_of(rank))[None, :]
            more = part_of(parts + block, there, (later < rank)[None, :], dtype, PIECES, WIDTH)
            share = tl.dot(more, more_b, share, input_precision=PRECISION)
        tl.store(outs, sum_of(old, share, scale).to(output.dtype.element_ty), mask=is_row & is_column)
        part = next_part
        old = next_old
        parts = next_parts
        outs = next_outs


@triton.jit
def b_columns(
    pages, table, place, rank, r, start, width, PAGE: tl.constexpr, COLUMNS: tl.constexpr, ROWWISE: tl.constexpr
):
    """Rows of transposed B in a run of columns, `[ranks, COLUMNS]`."""
    n = tl.arange(0, COLUMNS)
    mask = (r < rank)[:, None] & (start + n < width)[None, :]
    element = place + r * width + start
    if ROWWISE:
        base = tl.multiple_of(page_of(table, element, r < rank, PAGE) + element % PAGE, 16)
        at = base[:, None] + n[None, :]
    else:
        each = element[:, None] + n[None, :]
        at = page_of(table, each, mask, PAGE) + each % PAGE
    return tl.load(pages + at, mask=mask, other=0.0)
