"""A linear layer of many rows with what adapters of many rows add to them, on Hopper GPUs in Gluon, in one launch.

A tile that is summed up gets its rows' shares before it leaves, so the outputs make no trip to memory for them; the
other warpgroup multiplies meanwhile.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents

from kernels.gluon import BARRIER, REINTERPRET, SWIZZLED
from kernels.linear.kernel.hopper_product import (
    STAGES,
    SUMS,
    TILE,
    leave,
    memory_of,
    place_of,
    stream,
    sums_of,
    with_bias,
)
from kernels.lora.kernel.delta import part_of
from kernels.lora.kernel.tiling import page_of, room_of

RANKS = 64  # that are multiplied at once: as many rows of B as there is memory for what leaves
_T, _R, _S = gl.constexpr(TILE), gl.constexpr(RANKS), gl.constexpr(STAGES)
_PART = gl.constexpr(gl.DotOperandLayout(0, SUMS.value, 2))
_ROWS_OF_B = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0]))


@gluon.jit
def _multiply_and_add(
    out_desc, bias, operands, leaving, full, empty, turns, row_tiles, column_tiles, num_steps, out_features,
    pages, page_table, owners, records, bridge, table_stride,
    HAS_BIAS: gl.constexpr, PART: gl.constexpr, OUT0: gl.constexpr, OUT1: gl.constexpr, OUT2: gl.constexpr,
    WIDTH: gl.constexpr, PAGE: gl.constexpr, RECORD: gl.constexpr,
):  # fmt: skip
    """A warpgroup's tiles. While it waits for its turn it brings what the first of a tile's owners has for them.

    Then nothing is looked up while the sums wait: behind what streams to the other, each time takes 2 us.
    """
    leaving = leaving.index(PART)
    num_own = gl.cdiv(row_tiles * column_tiles - gl.program_id(0), gl.num_programs(0))
    for own in range(PART, num_own, 2):
        row_tile, column_tile = place_of(gl.program_id(0) + own * gl.num_programs(0), row_tiles, column_tiles)
        row, column = row_tile * _T, column_tile * _T
        num_owners = gl.load(owners + row_tile * 4)
        if num_owners > 0:
            record = records + gl.load(owners + row_tile * 4 + 1) * RECORD
            _bring(leaving, 0, record, column, pages, page_table, table_stride, OUT0, OUT1, OUT2, PAGE)
        sums = sums_of(own, operands, full, empty, turns, num_steps, PART)
        sums = with_bias(sums, bias, column, out_features, HAS_BIAS)
        for i in range(num_owners):
            record = records + gl.load(owners + row_tile * 4 + 1 + i) * RECORD
            for block in range(0, _matrix_of(record, column, OUT0, OUT1, OUT2)[0], _R):
                if (i > 0) | (block > 0):
                    _bring(leaving, block, record, column, pages, page_table, table_stride, OUT0, OUT1, OUT2, PAGE)
                part = _part(block, record, row, column, bridge, pages.dtype.element_ty, OUT0, OUT1, OUT2, WIDTH)
                memory = REINTERPRET(leaving, pages.dtype.element_ty, [_R, _T], SWIZZLED)
                sums = warpgroup_mma(part, memory, sums, is_async=True)
                sums = warpgroup_mma_wait(0, deps=[sums])
        leave(out_desc, sums, leaving, row, column)
    tma.store_wait(0)


@gluon.jit
def _matrix_of(record, column, OUT0: gl.constexpr, OUT1: gl.constexpr, OUT2: gl.constexpr):
    """What a tile's column is of: a module's rank, part of the record, place in the bridge, first column and width."""
    module = (column >= OUT0).to(gl.int32) + (column >= OUT0 + OUT1).to(gl.int32)
    begin = gl.where(module == 0, 0, gl.where(module == 1, OUT0, OUT0 + OUT1))
    width = gl.where(module == 0, OUT0, gl.where(module == 1, OUT1, OUT2))
    before = gl.where(module > 0, room_of(gl.load(record + 4)), 0)
    before += gl.where(module > 1, room_of(gl.load(record + 8)), 0)
    own = record + 4 + module * 4
    return gl.load(own), own, before, begin, width


@gluon.jit
def _bring(
    leaving, block, record, column, pages, page_table, table_stride,
    OUT0: gl.constexpr, OUT1: gl.constexpr, OUT2: gl.constexpr, PAGE: gl.constexpr,
):  # fmt: skip
    """Rows of transposed B from rank `block` on, of a tile's columns, to where the tile's sums leave from later."""
    rank, own, _, begin, width = _matrix_of(record, column, OUT0, OUT1, OUT2)
    table = page_table + gl.load(record + 2).to(gl.int64) * table_stride
    r = block + gl.arange(0, _R, gl.SliceLayout(1, _ROWS_OF_B))
    n = gl.arange(0, _T, gl.SliceLayout(0, _ROWS_OF_B))
    element = gl.load(own + 2) + r * width + (column - begin)
    base = page_of(table, element, r < rank, PAGE) + element % PAGE
    at = gl.multiple_of(pages + base[:, None] + n[None, :], [16, 16])
    b = gl.load(at, mask=(r < rank)[:, None], other=0.0)
    tma.store_wait(0)
    BARRIER()
    REINTERPRET(leaving, pages.dtype.element_ty, [_R, _T], SWIZZLED).store(b)
    fence_async_shared()
    BARRIER()


@gluon.jit
def _part(
    block, record, row, column, bridge, dtype: gl.constexpr,
    OUT0: gl.constexpr, OUT1: gl.constexpr, OUT2: gl.constexpr, WIDTH: gl.constexpr,
):  # fmt: skip
    """Ranks of the bridge from `block` on, scaled, of a tile's rows that the adapter owns; zeros of others."""
    rank, own, before, _, _ = _matrix_of(record, column, OUT0, OUT1, OUT2)
    first = gl.load(record)
    t = row + gl.arange(0, _T, gl.SliceLayout(1, _PART))
    is_own = (t >= first) & (t < first + gl.load(record + 1))
    r = block + gl.arange(0, _R, gl.SliceLayout(0, _PART))
    at = bridge + t.to(gl.int64)[:, None] * WIDTH + before + r[None, :]
    there = is_own[:, None] & (r < room_of(rank))[None, :]
    part = part_of(at, there, (r < rank)[None, :], dtype, 1, WIDTH)
    return (part.to(gl.float32) * gl.load(own + 3).to(gl.float32, bitcast=True)).to(dtype)


@gluon.jit(do_not_specialize=["row_tiles", "column_tiles", "num_steps", "table_stride"])
def linear_and_expand(
    out_desc, weight_desc, x_desc, bias, row_tiles, column_tiles, num_steps, out_features,
    pages, page_table, owners, records, bridge, table_stride, arrivals,
    HAS_BIAS: gl.constexpr, OUT0: gl.constexpr, OUT1: gl.constexpr, OUT2: gl.constexpr,
    WIDTH: gl.constexpr, PAGE: gl.constexpr, RECORD: gl.constexpr,
):  # fmt: skip
    """`out = x @ weight.T + bias`, and what adapters of many rows add.

    What tiles look up puts programs out of step, which would cost a tenth: so they meet at `arrivals`, `[1]` int64.
    """
    operands, leaving, full, empty, turns = memory_of(x_desc.dtype, _S)
    gdc_launch_dependents()
    gl.warp_specialize(
        [
            (
                _multiply_and_add,
                (
                    out_desc, bias, operands, leaving, full, empty, turns, row_tiles, column_tiles, num_steps,
                    out_features, pages, page_table, owners, records, bridge, table_stride,
                    HAS_BIAS, 0, OUT0, OUT1, OUT2, WIDTH, PAGE, RECORD,
                ),
            ),
            (
                _multiply_and_add,
                (
                    out_desc, bias, operands, leaving, full, empty, turns, row_tiles, column_tiles, num_steps,
                    out_features, pages, page_table, owners, records, bridge, table_stride,
                    HAS_BIAS, 1, OUT0, OUT1, OUT2, WIDTH, PAGE, RECORD,
                ),
            ),
            (
                stream,
                (
                    x_desc, weight_desc, operands, full, empty, row_tiles, column_tiles, num_steps,
                    row_tiles * _T, gl.num_programs(0), 1, arrivals,
                ),
            ),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip
