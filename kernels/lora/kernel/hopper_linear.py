"""A linear layer of few rows and the shrink of the same rows on Hopper GPUs in Gluon, in one launch.

Beside the warps of the linear layer, which wait for memory most of the time, four more take the tiles of the shrink, so
that it costs neither a launch nor time of its own.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra.cuda import gdc_launch_dependents

from kernels.linear.kernel.hopper_linear import multiply, stages_of, stream
from kernels.lora.kernel.hopper_shrink import shrink


@gluon.jit(do_not_specialize=["num_rows", "num_tiles", "num_steps", "table_stride"])
def linear_and_shrink(
    out, weight_desc, x_desc, bias, num_rows, num_tiles, num_steps, out_features, out_stride,
    x, pages, page_table, starts, records, bridge, table_stride,
    ROWS: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr, HAS_BIAS: gl.constexpr,
    MODULES: gl.constexpr, WIDTH: gl.constexpr, IN: gl.constexpr, PAGE: gl.constexpr, PIECES: gl.constexpr,
    ROUNDS: gl.constexpr, RECORD: gl.constexpr, LIVE: gl.constexpr,
):  # fmt: skip
    """As `hopper_linear.linear`, with four more warps that fill the bridge, as `shrink._shrink` would."""
    weights, inputs, full, empty = stages_of(out.dtype.element_ty, ROWS, PARTS, STAGES)
    gdc_launch_dependents()
    gl.warp_specialize(
        [
            (
                multiply,
                (
                    out, bias, weights, inputs, full, empty, num_rows, num_tiles, num_steps, out_features, out_stride,
                    ROWS, PARTS, STAGES, HAS_BIAS,
                ),
            ),
            (
                stream,
                (
                    weight_desc, x_desc, weights, inputs, full, empty, num_tiles, num_steps,
                    ROWS, PARTS, STAGES,
                ),
            ),
            (
                shrink,
                (
                    x, pages, page_table, starts, records, bridge, table_stride,
                    MODULES, WIDTH, IN, PAGE, PIECES, ROUNDS, RECORD, LIVE,
                ),
            ),
        ],
        [1, 4],
        [56, 152],
    )  # fmt: skip
