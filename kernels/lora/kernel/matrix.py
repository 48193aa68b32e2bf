"""Rows of an adapter's matrices, A and transposed B, read where they lie in the pool."""

import triton
import triton.language as tl

from kernels.lora.kernel.tiling import few_tile_of, page_of, place_in, room_of


@triton.jit
def rank_rows(record, r, MODULES: tl.constexpr, IN: tl.constexpr):
    """Rows of the A of a group's modules taken as one, for columns `r` of the bridge.

    Returns the rows' first elements, and whether there is such a row: the room of a module may be more than its ranks.
    """
    rank = tl.load(record + 4)
    element = tl.load(record + 5) + r * IN
    is_row = r < rank
    if MODULES > 1:
        begin = room_of(rank)
        rank = tl.load(record + 8)
        element = tl.where(r >= begin, tl.load(record + 9) + (r - begin) * IN, element)
        is_row = tl.where(r >= begin, r < begin + rank, is_row)
    if MODULES > 2:
        begin += room_of(rank)
        rank = tl.load(record + 12)
        element = tl.where(r >= begin, tl.load(record + 13) + (r - begin) * IN, element)
        is_row = tl.where(r >= begin, r < begin + rank, is_row)
    return element, is_row


@triton.jit
def few_of(
    live, tile, ranks, starts, records, page_table, table_stride,
    MODULES: tl.constexpr, IN: tl.constexpr, PIECES: tl.constexpr, RECORD: tl.constexpr, FEW: tl.constexpr,
    RANKS: tl.constexpr,
):  # fmt: skip
    """What a tile of MBGMV's shrink is, of adapter `live`; `ranks` are 0 up to `RANKS`.

    Returns its first row and rows, its adapter's pages, which piece of the inputs and which first column of the bridge
    it has, and the adapter's columns; of its own columns, too, what `rank_rows` tells.
    """
    record = records + live * RECORD
    piece, column, first, room = few_tile_of(tile - tl.load(starts + live), record, PIECES, FEW, RANKS)
    table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
    rank_row, is_rank = rank_rows(record, column + ranks, MODULES, IN)
    num_rows = tl.minimum(tl.load(record + 1) - first, FEW)
    return tl.load(record) + first, num_rows, table, piece, column, room, rank_row, is_rank


@triton.jit
def runs_of(
    pages,
    table,
    row,
    places,
    start,
    is_row,
    length,
    PAGE: tl.constexpr,
    NUM_PAGES: tl.constexpr,
    RUNWISE: tl.constexpr,
    RUN: tl.constexpr,
):
    """Runs of rows of `length` elements that begin at `row`, `[rows]`, in the adapter's stream, `[runs, rows, RUN]`.

    Each run begins at its `start`, `[runs]`, in the rows; zeros stand for what is past their end and for rows that are
    none. `RUNWISE` is whether neither a page nor a row ends within a run. Rows lie in up to `NUM_PAGES` pages, two or
    three, of which `places` are those of `places_of`; with 0 they are longer, and each run's page is looked up.
    """
    k = tl.arange(0, RUN)
    element = start[:, None] + row[None, :]  # [runs, rows]
    if RUNWISE:
        # Whole runs are there or not: a mask that is one for all elements of a load leaves them one load.
        there = is_row[None, :] & (start < length)[:, None]
        if NUM_PAGES > 0:
            base = place_in(start[:, None], places, PAGE, NUM_PAGES)
        else:
            base = page_of(table, element, there, PAGE) + element % PAGE
        at = tl.multiple_of(pages + base[:, :, None] + k[None, None, :], [16, 16, 16])
        return tl.load(at, mask=there[:, :, None], other=0.0)
    there = is_row[None, :, None] & (start[:, None] + k[None, :] < length)[:, None, :]
    each = element[:, :, None] + k[None, None, :]
    return tl.load(pages + page_of(table, each, there, PAGE) + each % PAGE, mask=there, other=0.0)
