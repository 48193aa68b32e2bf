"""A linear layer and the shrink of the same rows on Hopper GPUs in Gluon, in one launch, on processors apart.

A product in whole tiles leaves some processors idle, at least at its end. So as few programs multiply as take no longer
than all would, and the others shrink; of more than these can, those that multiplied do the rest after it. Where tiles
are so few that no more than half of the processors would multiply, two share one.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.gluon import BARRIER
from kernels.linear.kernel.hopper_product import (
    TILE,
    leave,
    leave_own_half,
    memory_of,
    place_of,
    steps_of,
    stream,
    sums_of,
    with_bias,
)
from kernels.lora.kernel.hopper_shrink_ahead import STAGES, shrink_ahead
from kernels.lora.kernel.tiling import apart_share_of

_T, _S = gl.constexpr(TILE), gl.constexpr(STAGES)


@gluon.jit
def _work(
    out_desc, bias, operands, leaving, full, empty, turns, done, row_tiles, column_tiles, num_steps, out_features,
    last_row, num_multiplying, num_shares, rounds_meanwhile, parts, flags, x, pages, page_table, starts, records,
    bridge, table_stride, HAS_BIAS: gl.constexpr, MODULES: gl.constexpr, WIDTH: gl.constexpr, IN: gl.constexpr,
    PAGE: gl.constexpr, PIECES: gl.constexpr, ROUNDS: gl.constexpr, RECORD: gl.constexpr, LIVE: gl.constexpr,
    PART: gl.constexpr,
):  # fmt: skip
    """A warpgroup's tiles of the product, if its program has any, and then of the shrink."""
    program = gl.program_id(0)
    if program < num_multiplying:
        num_own = gl.cdiv(row_tiles * column_tiles * num_shares - program, num_multiplying)
        for own in range(PART, num_own, 2):
            share = program + own * num_multiplying
            row_tile, column_tile = place_of(share // num_shares, row_tiles, column_tiles)
            row, column = gl.minimum(row_tile * _T, last_row), column_tile * _T
            first_step, end_step = steps_of(share % num_shares, num_shares, num_steps)
            sums = sums_of(own, operands, full, empty, turns, end_step - first_step, PART)
            sums = with_bias(sums, bias, column, gl.where(first_step == 0, out_features, 0), HAS_BIAS)
            if num_shares == 1:
                leave(out_desc, sums, leaving.index(PART), row, column)
            else:
                leave_own_half(out_desc, sums, leaving.index(PART), row, column, parts, flags, share)
        tma.store_wait(0)
        BARRIER()
        mbarrier.arrive(done, count=1)
        mbarrier.wait(done, 0)  # the other's operands lie where copies go
    first, end = apart_share_of(
        program, PART, gl.num_programs(0), num_multiplying, rounds_meanwhile, gl.load(starts + LIVE), ROUNDS
    )  # fmt: skip
    shrink_ahead(
        first, end, x, pages, page_table, starts, records, bridge, table_stride, operands, leaving,
        MODULES, WIDTH, IN, PAGE, PIECES, ROUNDS, RECORD, LIVE, PART,
    )  # fmt: skip


@gluon.jit
def _stream(
    x_desc, weight_desc, operands, full, empty, row_tiles, column_tiles, num_steps, last_row, num_multiplying,
    num_shares,
):  # fmt: skip
    if gl.program_id(0) < num_multiplying:
        gdc_wait()
        stream(
            x_desc, weight_desc, operands, full, empty, row_tiles, column_tiles, num_steps, last_row, num_multiplying,
            num_shares,
        )  # fmt: skip


@gluon.jit(
    do_not_specialize=[
        "row_tiles", "column_tiles", "num_steps", "last_row", "num_multiplying", "num_shares", "rounds_meanwhile",
        "table_stride",
    ]
)  # fmt: skip
def linear_and_shrink_apart(
    out_desc, weight_desc, x_desc, bias, row_tiles, column_tiles, num_steps, out_features, last_row, num_multiplying,
    num_shares, rounds_meanwhile, parts, flags, x, pages, page_table, starts, records, bridge, table_stride,
    HAS_BIAS: gl.constexpr, MODULES: gl.constexpr, WIDTH: gl.constexpr, IN: gl.constexpr, PAGE: gl.constexpr,
    PIECES: gl.constexpr, ROUNDS: gl.constexpr, RECORD: gl.constexpr, LIVE: gl.constexpr,
):  # fmt: skip
    """`out = x @ weight.T + bias`, and the bridge, as `shrink._shrink` would fill it.

    The last tile of rows begins where it ends with them, at `last_row`, and does some of the one before again: to bring
    rows that are not there takes longer.

    Where tiles are few, two programs share one (`num_shares`, 1 or 2): each has one share, of half of the inputs, and
    leaves half of the sum.
    """
    operands, leaving, full, empty, turns = memory_of(x_desc.dtype, _S)
    done = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(done, count=2)
    fence_async_shared()
    BARRIER()
    gdc_launch_dependents()
    gl.warp_specialize(
        [
            (
                _work,
                (
                    out_desc, bias, operands, leaving, full, empty, turns, done, row_tiles, column_tiles, num_steps,
                    out_features, last_row, num_multiplying, num_shares, rounds_meanwhile, parts, flags, x, pages,
                    page_table, starts, records, bridge, table_stride, HAS_BIAS, MODULES, WIDTH, IN, PAGE, PIECES,
                    ROUNDS, RECORD, LIVE, 0,
                ),
            ),
            (
                _work,
                (
                    out_desc, bias, operands, leaving, full, empty, turns, done, row_tiles, column_tiles, num_steps,
                    out_features, last_row, num_multiplying, num_shares, rounds_meanwhile, parts, flags, x, pages,
                    page_table, starts, records, bridge, table_stride, HAS_BIAS, MODULES, WIDTH, IN, PAGE, PIECES,
                    ROUNDS, RECORD, LIVE, 1,
                ),
            ),
            (
                _stream,
                (
                    x_desc, weight_desc, operands, full, empty, row_tiles, column_tiles, num_steps, last_row,
                    num_multiplying, num_shares,
                ),
            ),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip
