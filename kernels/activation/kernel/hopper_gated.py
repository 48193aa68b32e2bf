"""A gated linear layer of many rows with SwiGLU's product on Hopper GPUs in Gluon, in one launch.

A tile has 64 columns of gate and the same 64 of up, so that their product leaves in the place of either: what the
linear layer gives makes no trip to memory.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma
from triton.language.extra.cuda import gdc_launch_dependents

from kernels.linear.kernel.hopper_product import (
    STAGES,
    H,
    T,
    halves_of,
    leave_half,
    memory_of,
    place_of,
    stream,
    sums_of,
)

_S = gl.constexpr(STAGES)


@gluon.jit
def _multiply(
    out_desc, operands, leaving, full, empty, turns, row_tiles, column_tiles, num_steps, last_row, PART: gl.constexpr
):
    """A warpgroup's tiles."""
    leaving = leaving.index(PART)
    num_own = gl.cdiv(row_tiles * column_tiles - gl.program_id(0), gl.num_programs(0))
    for own in range(PART, num_own, 2):
        row_tile, column_tile = place_of(gl.program_id(0) + own * gl.num_programs(0), row_tiles, column_tiles)
        sums = sums_of(own, operands, full, empty, turns, num_steps, PART)
        gate, up = halves_of(sums.to(out_desc.dtype).to(gl.float32))
        gated = (gate * (1 / (1 + gl.exp(-gate)))).to(out_desc.dtype).to(gl.float32)
        product = (gated * up).to(out_desc.dtype)
        leave_half(out_desc, product, leaving, gl.minimum(row_tile * T, last_row), column_tile * H)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["row_tiles", "column_tiles", "num_steps", "last_row"])
def linear_silu_mul(out_desc, weight_desc, x_desc, row_tiles, column_tiles, num_steps, last_row, arrivals):
    """`out = silu_mul(x @ weight.T)`. The last tile of rows begins where it ends with them, at `last_row`."""
    operands, leaving, full, empty, turns = memory_of(x_desc.dtype, _S)
    gdc_launch_dependents()
    gl.warp_specialize(
        [
            (
                _multiply,
                (out_desc, operands, leaving, full, empty, turns, row_tiles, column_tiles, num_steps, last_row, 0),
            ),
            (
                _multiply,
                (out_desc, operands, leaving, full, empty, turns, row_tiles, column_tiles, num_steps, last_row, 1),
            ),
            (
                stream,
                (
                    x_desc, weight_desc, operands, full, empty, row_tiles, column_tiles, num_steps, last_row,
                    gl.num_programs(0), 1, arrivals, True,
                ),
            ),
        ],
        [4, 1],
        [232, 40],
    )  # fmt: skip
