"""Few rows times a large matrix on Hopper GPUs in Gluon: a warp streams weights by TMA, a warpgroup multiplies them.

Weights are the left operand of wgmma, so that its 64 rows are rows of the matrix and the few rows of `x` its columns.
A tile has some rows of the matrix and all of their length, so nothing is added up between programs. So that there are
tiles for all programs, a row may be cut in parts, each a row of the left operand; the rows of `x` then are cut alike.
Of the products of all parts with all parts, those of a part with itself are added.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.gluon import ASYNC_LOAD, BARRIER, SWIZZLED
from kernels.linear.kernel import tiles

HEIGHT, WIDTH, SLABS = gl.constexpr(tiles.HEIGHT), gl.constexpr(tiles.WIDTH), gl.constexpr(tiles.SLABS)


@gluon.jit
def stream(
    weight_desc, x_desc, weights, inputs, full, empty, num_tiles, num_steps,
    ROWS: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The producer. Weights for all of shared memory begin to come before the kernel that makes `x` has ended."""
    BYTES: gl.constexpr = SLABS * (HEIGHT + ROWS * PARTS) * WIDTH * 2
    first = gl.program_id(0)
    num_own = gl.cdiv(num_tiles - first, gl.num_programs(0))
    lead = gl.minimum(num_own * num_steps, gl.minimum(num_steps, STAGES))  # a program may have no tile
    for step in range(lead):
        mbarrier.expect(full.index(step), BYTES)
        _fetch_weights(weight_desc, weights, full.index(step), first, step, step)
    gdc_wait()
    for step in range(lead):
        _fetch_inputs(x_desc, inputs, full.index(step), step, step)
    for done in range(lead, num_own * num_steps):
        stage = done % STAGES
        tile = first + done // num_steps * gl.num_programs(0)
        step = done % num_steps
        mbarrier.wait(empty.index(stage), ((done // STAGES) & 1) ^ 1)
        mbarrier.expect(full.index(stage), BYTES)
        _fetch_weights(weight_desc, weights, full.index(stage), tile, step, stage)
        _fetch_inputs(x_desc, inputs, full.index(stage), step, stage)


@gluon.jit
def _fetch_weights(desc, weights, barrier, tile, step, stage):
    for slab in gl.static_range(SLABS):
        column = (step * SLABS + slab) * WIDTH
        ASYNC_LOAD(desc, [tile * HEIGHT, column], barrier, weights.index(stage * SLABS + slab))


@gluon.jit
def _fetch_inputs(desc, inputs, barrier, step, stage):
    for slab in gl.static_range(SLABS):
        ASYNC_LOAD(desc, [0, (step * SLABS + slab) * WIDTH], barrier, inputs.index(stage * SLABS + slab))


@gluon.jit
def multiply(
    out, bias, weights, inputs, full, empty, num_rows, num_tiles, num_steps, out_features, out_stride,
    ROWS: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr, HAS_BIAS: gl.constexpr,
):  # fmt: skip
    """The consumer."""
    COLUMNS: gl.constexpr = ROWS * PARTS
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, COLUMNS, 16])
    used = 0
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        sums = gl.zeros([HEIGHT, COLUMNS], gl.float32, layout)
        for _ in range(num_steps):
            stage = used % STAGES
            mbarrier.wait(full.index(stage), (used // STAGES) & 1)
            for slab in gl.static_range(SLABS):
                left = weights.index(stage * SLABS + slab)
                right = inputs.index(stage * SLABS + slab).permute((1, 0))
                sums = warpgroup_mma(left, right, sums, is_async=True)
            sums = warpgroup_mma_wait(0, deps=[sums])
            mbarrier.arrive(empty.index(stage), count=1)
            used += 1
        _store(out, bias, sums, tile, num_rows, out_features, out_stride, ROWS, PARTS, HAS_BIAS, layout)


@gluon.jit
def _store(
    out, bias, sums, tile, num_rows, out_features, out_stride,
    ROWS: gl.constexpr, PARTS: gl.constexpr, HAS_BIAS: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """Adds up the parts of a tile and stores its columns of `out`."""
    COUNT: gl.constexpr = HEIGHT // PARTS
    LANES: gl.constexpr = COUNT // 8
    out_layout: gl.constexpr = gl.BlockedLayout([8, 1], [LANES, 32 // LANES], [1, 4], [0, 1])
    if PARTS > 1:
        left = gl.arange(0, HEIGHT, gl.SliceLayout(1, layout)) % PARTS
        right = gl.arange(0, ROWS * PARTS, gl.SliceLayout(0, layout)) % PARTS
        sums = gl.where(left[:, None] == right[None, :], sums, 0.0)
        sums = gl.sum(gl.sum(sums.reshape([COUNT, PARTS, ROWS, PARTS]), 3), 1)
    sums = gl.convert_layout(sums, out_layout)
    column = tile * COUNT + gl.arange(0, COUNT, gl.SliceLayout(1, out_layout))
    row = gl.arange(0, ROWS, gl.SliceLayout(0, out_layout))
    if HAS_BIAS:
        sums += gl.load(bias + column, mask=column < out_features, other=0.0).to(gl.float32)[:, None]
    gl.store(
        out + row.to(gl.int64)[None, :] * out_stride + column[:, None],
        sums.to(out.dtype.element_ty),
        mask=(column < out_features)[:, None] & (row < num_rows)[None, :],
    )


@gluon.jit
def stages_of(DTYPE: gl.constexpr, ROWS: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr):
    """Shared memory for weights and inputs, and barriers that tell when a stage is full and when it is empty."""
    weights = gl.allocate_shared_memory(DTYPE, [STAGES * SLABS, HEIGHT, WIDTH], SWIZZLED)
    inputs = gl.allocate_shared_memory(DTYPE, [STAGES * SLABS, ROWS * PARTS, WIDTH], SWIZZLED)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    fence_async_shared()
    BARRIER()
    return weights, inputs, full, empty


@gluon.jit(do_not_specialize=["num_rows", "num_tiles", "num_steps"])
def linear(
    out, weight_desc, x_desc, bias, num_rows, num_tiles, num_steps, out_features, out_stride,
    ROWS: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr, HAS_BIAS: gl.constexpr,
):  # fmt: skip
    """Tiles of the matrix, taken in turn by programs of four warps and one."""
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
        ],
        [1],
        [56],
    )  # fmt: skip
