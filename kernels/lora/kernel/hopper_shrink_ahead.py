"""MBGMV's shrink by four warps of a program on Hopper GPUs, in Gluon, which copy two rounds ahead to shared memory.

Tiles, products and sums are those of `hopper_shrink`, whose warps hold rounds in registers.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy, mma_v2
from triton.language.extra.cuda import gdc_wait

from kernels.gluon import ASYNC_COPY, REINTERPRET
from kernels.lora.kernel import tiling
from kernels.lora.kernel.hopper_shrink import A_LAYOUT, PRODUCTS, RANKS, ROWS_EACH, SPAN, SPANS, X_LAYOUT, round_of
from kernels.lora.kernel.matrix import few_of
from kernels.lora.kernel.tiling import adapter_of, num_pages_of, place_in, places_of

# Of 32 KB for a product's operands, one fewer than without shrinks, which need 4 KB more. Rank rows of two rounds of
# both parts lie there, and the inputs of one part.
STAGES = 5
_S = gl.constexpr(STAGES)
_SHARED = gl.constexpr(gl.SwizzledSharedLayout(8, 1, 8, [2, 1, 0]))
_COPIED = gl.constexpr(gl.BlockedLayout([1, 1, 8], [1, 4, 8], [tiling.SPANS, 1, 1], [2, 1, 0]))


@gluon.jit
def shrink_ahead(
    first, end, x, pages, page_table, starts, records, bridge, table_stride, operands, leaving,
    MODULES: gl.constexpr, WIDTH: gl.constexpr, IN: gl.constexpr, PAGE: gl.constexpr, PIECES: gl.constexpr,
    ROUNDS: gl.constexpr, RECORD: gl.constexpr, LIVE: gl.constexpr, PART: gl.constexpr,
):  # fmt: skip
    """Tiles from `first` up to `end`, round after round: the next may be of other rank rows.

    Before the kernel that makes `x` has ended, a round's rank rows are asked for, which no earlier kernel writes.

    `operands` and `leaving` are a product's memory (`hopper_product.memory_of`), which both parts of a program share.
    """
    ALL_ROUNDS: gl.constexpr = (IN + SPANS * SPAN - 1) // (SPANS * SPAN)
    all_ranks = REINTERPRET(operands, pages.dtype.element_ty, [_S, SPANS, RANKS, SPAN], _SHARED)
    if PART == 0:
        all_inputs = REINTERPRET(operands, pages.dtype.element_ty, [2 * _S, SPANS, ROWS_EACH, SPAN], _SHARED)
    else:
        all_inputs = REINTERPRET(leaving, pages.dtype.element_ty, [2, SPANS, ROWS_EACH, SPAN], _SHARED)
    RANKS_AT: gl.constexpr = 2 * PART
    INPUTS_AT: gl.constexpr = 2 * _S - 2 if PART == 0 else 0
    if first < end:
        all_starts = gl.load(starts + gl.arange(0, LIVE, gl.BlockedLayout([LIVE // 32], [32], [SPANS], [0])))
        begin = first // PIECES * ALL_ROUNDS + first % PIECES * ROUNDS
        stop = end // PIECES * ALL_ROUNDS + end % PIECES * ROUNDS
        live, row, num_rows, column, room, places, is_rank = _block_of(
            begin // ALL_ROUNDS, adapter_of(all_starts, first), starts, page_table, records, table_stride,
            MODULES, IN, PAGE, PIECES, RECORD,
        )  # fmt: skip
        _copy_ranks(all_ranks.index(RANKS_AT), pages, places, is_rank, begin % ALL_ROUNDS, IN, PAGE)
        gdc_wait()
        _copy_inputs(all_inputs.index(INPUTS_AT), x, row, num_rows, begin % ALL_ROUNDS, IN)
        async_copy.commit_group()
        # What the round after this one is of, and the last that was asked for.
        next_row, next_num_rows, next_column, next_room = row, num_rows, column, room
        if ((begin + 1) % ALL_ROUNDS == 0) & (begin + 1 < stop):
            live, next_row, next_num_rows, next_column, next_room, places, is_rank = _block_of(
                (begin + 1) // ALL_ROUNDS, live, starts, page_table, records, table_stride,
                MODULES, IN, PAGE, PIECES, RECORD,
            )  # fmt: skip
        if begin + 1 < stop:
            turn = (begin + 1) % ALL_ROUNDS
            _copy_ranks(all_ranks.index(RANKS_AT + 1), pages, places, is_rank, turn, IN, PAGE)
            _copy_inputs(all_inputs.index(INPUTS_AT + 1), x, next_row, next_num_rows, turn, IN)
        async_copy.commit_group()
        total_layout: gl.constexpr = gl.BlockedLayout([1, 1], [16, 2], [1, SPANS], [0, 1])
        total = gl.zeros([RANKS, ROWS_EACH], gl.float32, total_layout)
        for now in range(begin, stop):
            asked_row, asked_rows, asked_column, asked_room = next_row, next_num_rows, next_column, next_room
            if ((now + 2) % ALL_ROUNDS == 0) & (now + 2 < stop):
                live, asked_row, asked_rows, asked_column, asked_room, places, is_rank = _block_of(
                    (now + 2) // ALL_ROUNDS, live, starts, page_table, records, table_stride,
                    MODULES, IN, PAGE, PIECES, RECORD,
                )  # fmt: skip
            stage = (now - begin) % 2
            ranks, inputs = all_ranks.index(RANKS_AT + stage), all_inputs.index(INPUTS_AT + stage)
            async_copy.wait_group(1)
            a, rows = ranks.load(A_LAYOUT), inputs.permute((0, 2, 1)).load(X_LAYOUT)
            products = mma_v2(a, rows, gl.zeros([SPANS, RANKS, ROWS_EACH], gl.float32, PRODUCTS))
            if now + 2 < stop:
                _copy_ranks(ranks, pages, places, is_rank, (now + 2) % ALL_ROUNDS, IN, PAGE)
                _copy_inputs(inputs, x, asked_row, asked_rows, (now + 2) % ALL_ROUNDS, IN)
            async_copy.commit_group()
            total += round_of(products, total_layout)
            turn = now % ALL_ROUNDS
            if (turn % ROUNDS == ROUNDS - 1) | (turn == ALL_ROUNDS - 1):
                r = column + gl.arange(0, RANKS, gl.SliceLayout(1, total_layout))
                t = gl.arange(0, ROWS_EACH, gl.SliceLayout(0, total_layout))
                at = bridge + ((row + t)[None, :].to(gl.int64) * PIECES + turn // ROUNDS) * WIDTH + r[:, None]
                gl.store(at, total.to(bridge.dtype.element_ty), mask=(t < num_rows)[None, :] & (r < room)[:, None])
                total = gl.zeros([RANKS, ROWS_EACH], gl.float32, total_layout)
            row, num_rows, column, room = next_row, next_num_rows, next_column, next_room
            next_row, next_num_rows, next_column, next_room = asked_row, asked_rows, asked_column, asked_room


@gluon.jit
def _block_of(
    block, live, starts, page_table, records, table_stride,
    MODULES: gl.constexpr, IN: gl.constexpr, PAGE: gl.constexpr, PIECES: gl.constexpr, RECORD: gl.constexpr,
):  # fmt: skip
    """The tiles of all pieces of one block of rank rows and of rows, by its number among all of these.

    `live` is an adapter that is not behind it, mostly the block's or the one before: to go on from there takes less
    than to look for it among all. Returns the block's, its first row, its rows, its first column and the
    adapter's columns, and where its rank rows lie.
    """
    tile = block * PIECES
    while tile >= gl.load(starts + live + 1):
        live += 1
    ranks = gl.arange(0, RANKS, gl.SliceLayout(0, gl.SliceLayout(2, _COPIED)))
    row, num_rows, table, _, column, room, rank_row, is_rank = few_of(
        live, tile, ranks, starts, records, page_table, table_stride, MODULES, IN, PIECES, RECORD, ROWS_EACH, RANKS
    )
    places = places_of(table, rank_row, IN, is_rank, PAGE, num_pages_of(IN, PAGE))
    return live, row, num_rows, column, room, places, is_rank


@gluon.jit
def _copy_ranks(ranks, pages, places, is_rank, turn, IN: gl.constexpr, PAGE: gl.constexpr):
    """Asks for a round of rank rows, `[SPANS, RANKS, SPAN]`."""
    start = _starts_of(turn)
    base = place_in(start, places, PAGE, num_pages_of(IN, PAGE))
    at = gl.multiple_of(pages + base[:, :, None] + _in_span(), [1, 1, 16])
    ASYNC_COPY(ranks, at, mask=(is_rank[None, :] & (start < IN))[:, :, None])


@gluon.jit
def _copy_inputs(inputs, x, row, num_rows, turn, IN: gl.constexpr):
    """Asks for the same round of inputs, `[SPANS, ROWS_EACH, SPAN]`."""
    start = _starts_of(turn)
    t = gl.arange(0, ROWS_EACH, gl.SliceLayout(0, gl.SliceLayout(2, _COPIED)))
    at = x + ((row + t).to(gl.int64) * IN)[None, :, None] + start[:, :, None] + _in_span()
    ASYNC_COPY(inputs, at, mask=(t < num_rows)[None, :, None] & (start < IN)[:, :, None])


@gluon.jit
def _starts_of(turn):
    """Where a round's spans begin, `[SPANS, 1]`."""
    span = gl.arange(0, SPANS, gl.SliceLayout(1, gl.SliceLayout(2, _COPIED)))
    return ((turn * SPANS + span) * SPAN)[:, None]


@gluon.jit
def _in_span():
    return gl.arange(0, SPAN, gl.SliceLayout(0, gl.SliceLayout(1, _COPIED)))[None, None, :]
