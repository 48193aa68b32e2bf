"""MBGMV's shrink by four warps of a program on Hopper GPUs, in Gluon, with no shared memory to speak of.

A tile has 16 columns of the bridge, up to 8 rows of an adapter and a piece of their inputs; an adapter with more rows
has a tile for each 8. Products and sums are taken in the order of all other shrinks, so a row has the same bits.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_wait

from kernels.lora.kernel import tiling
from kernels.lora.kernel.matrix import few_of
from kernels.lora.kernel.tiling import adapter_of, num_pages_of, place_in, places_of

RANKS, ROWS_EACH = gl.constexpr(tiling.FEW_RANKS), gl.constexpr(tiling.FEW_ROWS)
SPAN, SPANS = gl.constexpr(tiling.MAX_SPAN), gl.constexpr(tiling.SPANS)
# Each warp has a span, of all ranks and rows.
PRODUCTS = gl.constexpr(gl.NVMMADistributedLayout([2, 0], [tiling.SPANS, 1, 1], [1, 16, 8]))
A_LAYOUT = gl.constexpr(gl.DotOperandLayout(0, PRODUCTS.value, 2))
X_LAYOUT = gl.constexpr(gl.DotOperandLayout(1, PRODUCTS.value, 2))


@gluon.jit
def shrink(
    x, pages, page_table, starts, records, bridge, table_stride,
    MODULES: gl.constexpr, WIDTH: gl.constexpr, IN: gl.constexpr, PAGE: gl.constexpr, PIECES: gl.constexpr,
    ROUNDS: gl.constexpr, RECORD: gl.constexpr, LIVE: gl.constexpr,
):  # fmt: skip
    """A program's share of the tiles. The next round's rank rows are on their way while a round is added up.

    Before the kernel that makes `x` has ended, the first round's are asked for, which no earlier kernel writes.
    """
    ALL_ROUNDS: gl.constexpr = (IN + SPANS * SPAN - 1) // (SPANS * SPAN)
    all_starts = gl.load(starts + gl.arange(0, LIVE, gl.BlockedLayout([LIVE // 32], [32], [SPANS], [0])))
    num_tiles = gl.load(starts + LIVE)
    tile = gl.program_id(0) * num_tiles // gl.num_programs(0)
    end = (gl.program_id(0) + 1) * num_tiles // gl.num_programs(0)
    if tile < end:
        row, num_rows, piece, column, room, places, is_rank = _tile_of(
            tile, starts, all_starts, page_table, records, table_stride, MODULES, IN, PAGE, PIECES, RECORD
        )
        now = piece * ROUNDS
        a = _rank_rows(pages, places, is_rank, now, IN, PAGE)
        gdc_wait()
        total_layout: gl.constexpr = gl.BlockedLayout([1, 1], [16, 2], [1, SPANS], [0, 1])
        total = gl.zeros([RANKS, ROWS_EACH], gl.float32, total_layout)
        while tile < end:
            rows = _rows(x, row, num_rows, now, IN)
            r = column + gl.arange(0, RANKS, gl.SliceLayout(1, total_layout))
            t = gl.arange(0, ROWS_EACH, gl.SliceLayout(0, total_layout))
            at = bridge + ((row + t)[None, :].to(gl.int64) * PIECES + piece) * WIDTH + r[:, None]
            is_there = (t < num_rows)[None, :] & (r < room)[:, None]
            now += 1
            is_whole = (now == (piece + 1) * ROUNDS) | (now == ALL_ROUNDS)
            if is_whole:
                tile += 1
                if tile < end:
                    row, num_rows, piece, column, room, places, is_rank = _tile_of(
                        tile, starts, all_starts, page_table, records, table_stride, MODULES, IN, PAGE, PIECES, RECORD
                    )
                    now = piece * ROUNDS
            products = mma_v2(a, rows, gl.zeros([SPANS, RANKS, ROWS_EACH], gl.float32, PRODUCTS))
            a = _rank_rows(pages, places, is_rank & (tile < end), now, IN, PAGE)
            total += round_of(products, total_layout)
            if is_whole:
                gl.store(at, total.to(bridge.dtype.element_ty), mask=is_there)
                total = gl.zeros([RANKS, ROWS_EACH], gl.float32, total_layout)


@gluon.jit
def _tile_of(
    tile, starts, all_starts, page_table, records, table_stride,
    MODULES: gl.constexpr, IN: gl.constexpr, PAGE: gl.constexpr, PIECES: gl.constexpr, RECORD: gl.constexpr,
):  # fmt: skip
    """A tile's first row, rows, piece, first column and columns of its adapter, and where its rank rows lie."""
    live = adapter_of(all_starts, tile)
    ranks = gl.arange(0, RANKS, gl.SliceLayout(0, gl.SliceLayout(2, A_LAYOUT)))
    row, num_rows, table, piece, column, room, rank_row, is_rank = few_of(
        live, tile, ranks, starts, records, page_table, table_stride, MODULES, IN, PIECES, RECORD, ROWS_EACH, RANKS
    )
    places = places_of(table, rank_row, IN, is_rank, PAGE, num_pages_of(IN, PAGE))
    return row, num_rows, piece, column, room, places, is_rank


@gluon.jit
def _rank_rows(pages, places, is_rank, turn, IN: gl.constexpr, PAGE: gl.constexpr):
    """A round of rank rows, `[SPANS, RANKS, SPAN]`."""
    span = gl.arange(0, SPANS, gl.SliceLayout(1, gl.SliceLayout(2, A_LAYOUT)))
    start = ((turn * SPANS + span) * SPAN)[:, None]
    k = gl.arange(0, SPAN, gl.SliceLayout(0, gl.SliceLayout(1, A_LAYOUT)))
    base = place_in(start, places, PAGE, num_pages_of(IN, PAGE))
    at = gl.multiple_of(pages + base[:, :, None] + k[None, None, :], [16, 16, 16])
    return gl.load(at, mask=(is_rank[None, :] & (start < IN))[:, :, None], other=0.0)


@gluon.jit
def _rows(x, row, num_rows, turn, IN: gl.constexpr):
    """The same round of inputs, `[SPANS, SPAN, ROWS_EACH]`."""
    span = gl.arange(0, SPANS, gl.SliceLayout(1, gl.SliceLayout(2, X_LAYOUT)))
    start = ((turn * SPANS + span) * SPAN)[:, None, None]
    k = gl.arange(0, SPAN, gl.SliceLayout(0, gl.SliceLayout(2, X_LAYOUT)))
    t = gl.arange(0, ROWS_EACH, gl.SliceLayout(0, gl.SliceLayout(1, X_LAYOUT)))
    at = x + (row + t)[None, None, :].to(gl.int64) * IN + start + k[None, :, None]
    return gl.load(at, mask=(t < num_rows)[None, None, :] & (start < IN), other=0.0)


@gluon.jit
def round_of(products, layout: gl.constexpr):
    """The sum of a round's spans, first to last, `[RANKS, ROWS_EACH]`."""
    spans = gl.convert_layout(products, gl.BlockedLayout([SPANS, 1, 1], [1, 16, 2], [1, 1, SPANS], [1, 2, 0]))
    front, back = spans.reshape([2, 2, RANKS, ROWS_EACH]).permute((2, 3, 1, 0)).split()
    first, second = front.split()
    third, fourth = back.split()
    return gl.convert_layout(((first + second) + third) + fourth, layout)
