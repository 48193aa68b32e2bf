"""Many rows times a matrix on Hopper GPUs in Gluon: a warp streams both by TMA, and two warpgroups take turns.

Each has a tile of its own, so that while one multiplies the other leaves what it has: tensor cores are never idle for
that. Programs stay, one for each processor that multiplies, and take tiles in an order that shares rows and columns in
the L2. Where something may put them out of step they can begin each turn together: what several ask for at once costs
the L2 less than the same asked for one after the other.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels.gluon import ASYNC_LOAD, ASYNC_STORE, BARRIER, SWIZZLED
from kernels.linear.kernel import tiles

TILE = tiles.WHOLE_TILE  # rows of a tile, and columns
STEP = HALF = tiles.WIDTH  # inputs of a step, and columns that leave at a time: rows of 128 bytes, as TMA swizzles them
STAGES = 6  # of 32 KB, as many as there is memory for; 32 more for what leaves
GROUP = 8  # tiles of rows that are taken with the same columns
T, K, H, G = gl.constexpr(TILE), gl.constexpr(STEP), gl.constexpr(HALF), gl.constexpr(GROUP)
SUMS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, TILE, 16]))
_THREADS = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))
_LANES = gl.constexpr(gl.BlockedLayout([1], [32], [1], [0]))
_LEAVING = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HALF, 16]))


@gluon.jit
def memory_of(DTYPE: gl.constexpr, STAGES: gl.constexpr):
    """Shared memory: stages, each of inputs and weights, what leaves, and barriers.

    The barriers are of full and of empty stages, and of whose turn it is.
    """
    operands = gl.allocate_shared_memory(DTYPE, [2 * STAGES, T, K], SWIZZLED)
    leaving = gl.allocate_shared_memory(DTYPE, [2, T, H], SWIZZLED)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    for half in gl.static_range(2):
        mbarrier.init(turns.index(half), count=1)
    fence_async_shared()
    BARRIER()
    return operands, leaving, full, empty, turns


@gluon.jit
def place_of(tile, row_tiles, column_tiles):
    """Which tile of rows and of columns a tile is: `GROUP` tiles of rows, then the next of columns."""
    group = tile // (G * column_tiles)
    height = gl.minimum(row_tiles - group * G, G)
    rest = tile - group * G * column_tiles
    return group * G + rest % height, rest // height


@gluon.jit
def steps_of(share, num_shares, num_steps):
    """Which steps are of one of a tile's shares: the first, and the first after it."""
    return share * num_steps // num_shares, (share + 1) * num_steps // num_shares


@gluon.jit
def stream(
    x_desc, weight_desc, operands, full, empty, row_tiles, column_tiles, num_steps, last_row, num_programs,
    num_shares=1, arrivals=None, IS_GATED: gl.constexpr = False,
):  # fmt: skip
    """The producer of one of the programs that multiply. No tile begins behind `last_row`.

    If the layer is gated, a tile has half as many columns of the first half of the matrix, and the same of the second.

    With `arrivals` they begin each turn together. In the last one those without a tile arrive, too, so that the number
    of arrivals is a multiple of `num_programs` before and after a launch; it is read at once, so a launch with it is
    not to begin before the one in front has ended.
    """
    S: gl.constexpr = full.shape[0]
    used = 0
    end_share = row_tiles * column_tiles * num_shares
    if arrivals is not None:
        due = gl.load(arrivals, volatile=True)
        due -= due % num_programs  # none comes a second time before this one has come, unless it gave up
        polls = gl.full([32], 128, gl.int32, _LANES)
    for share in range(gl.program_id(0), gl.cdiv(end_share, num_programs) * num_programs, num_programs):
        if arrivals is not None:
            due += num_programs
            polls = _meet(arrivals, due, polls)
        if share < end_share:
            row_tile, column_tile = place_of(share // num_shares, row_tiles, column_tiles)
            first, end = steps_of(share % num_shares, num_shares, num_steps)
            for step in range(first, end):
                stage = used % S
                mbarrier.wait(empty.index(stage), ((used // S) & 1) ^ 1)
                mbarrier.expect(full.index(stage), 2 * T * K * 2)
                weights = operands.index(2 * stage + 1)
                if IS_GATED:
                    column = column_tile * H
                    ASYNC_LOAD(weight_desc, [column, step * K], full.index(stage), weights.slice(0, H))
                    column += column_tiles * H
                    ASYNC_LOAD(weight_desc, [column, step * K], full.index(stage), weights.slice(H, H))
                else:
                    ASYNC_LOAD(weight_desc, [column_tile * T, step * K], full.index(stage), weights)
                row = gl.minimum(row_tile * T, last_row)
                ASYNC_LOAD(x_desc, [row, step * K], full.index(stage), operands.index(2 * stage))
                used += 1


@gluon.jit
def _meet(arrivals, due, polls):
    """Comes, and waits until `due` have, but asks no more than `polls` times, `[32]`, some 80 us for 128.

    A warp waits, and its first thread comes. Nothing is told but that, so nothing is ordered by it: to go on out of
    step costs but time. Whoever waited in vain once, as for a program that finds its processor taken, does not again.

    Returns:
        `polls`, or zeros if they were too few.
    """
    lane = gl.arange(0, 32, _LANES)
    return gl.inline_asm_elementwise(
        """{
        .reg .pred again;
        .reg .u64 come;
        .reg .u32 left;
        setp.eq.s32 again, $2, 0;
        @again red.relaxed.gpu.global.add.u64 [$1], 1;
        mov.u32 left, $4;
        mov.u64 come, 0;
        poll: setp.ne.u32 again, left, 0;
        @again ld.relaxed.gpu.global.u64 come, [$1];
        setp.lt.and.u64 again, come, $3, again;
        @again sub.u32 left, left, 1;
        @again bra poll;
        setp.ge.u64 again, come, $3;
        selp.b32 $0, $4, 0, again;
        }""",
        "=r,l,r,l,r", [(arrivals + lane * 0).to(gl.int64), lane, due + lane * 0, polls], gl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def sums_of(own, operands, full, empty, turns, num_steps, PART: gl.constexpr):
    """This program's tile number `own`, `[TILE, TILE]`, of which each of two warpgroups takes every other.

    The stages of a tile are used in one go: a stage's phase is told by its parity, so nobody may look far ahead. All of
    a program's tiles have as many steps, at least one.
    """
    S: gl.constexpr = full.shape[0]
    sums = gl.zeros([T, T], gl.float32, SUMS)
    used = own * num_steps
    mbarrier.wait(turns.index(PART), (own // 2 + 1 - PART) & 1)
    for step in range(num_steps):
        stage = used % S
        mbarrier.wait(full.index(stage), (used // S) & 1)
        inputs, weights = operands.index(2 * stage), operands.index(2 * stage + 1).permute((1, 0))
        sums = warpgroup_mma(inputs, weights, sums, is_async=True)
        sums = warpgroup_mma_wait(1, deps=[sums])
        mbarrier.arrive(empty.index((used + S - 1) % S), count=1, pred=step > 0)
        used += 1
    mbarrier.arrive(turns.index(1 - PART), count=1)
    sums = warpgroup_mma_wait(0, deps=[sums])
    mbarrier.arrive(empty.index((used + S - 1) % S), count=1)
    return sums


@gluon.jit
def with_bias(sums, bias, column, out_features, HAS_BIAS: gl.constexpr):
    """A tile, and the bias of its columns."""
    if HAS_BIAS:
        n = column + gl.arange(0, T, gl.SliceLayout(0, SUMS))
        sums += gl.load(bias + n, mask=n < out_features, other=0.0).to(gl.float32)[None, :]
    return sums


@gluon.jit
def halves_of(sums):
    """The first half of a tile's columns, and the second, of each row in the threads that have it."""
    return sums.reshape([T, 2, H]).permute((0, 2, 1)).split()


@gluon.jit
def leave(out_desc, sums, leaving, row, column):
    """Stores a tile; what is outside of `out` is left out."""
    left, right = halves_of(sums.to(out_desc.dtype))
    leave_half(out_desc, left, leaving, row, column)
    leave_half(out_desc, right, leaving, row, column + H)


@gluon.jit
def leave_own_half(out_desc, sums, leaving, row, column, parts, flags, share):
    """Stores a half of a tile whose inputs two programs share, the halves being of neighbouring shares.

    Each leaves its sums of the other's half in memory, and waits for it. Both run at once: there are no more programs
    than processors, each of which holds one, and the next kernel finds no place before all of these have begun.
    """
    left, right = halves_of(sums)
    is_left = share % 2 == 0
    own = gl.convert_layout(gl.where(is_left, left, right), _LEAVING)
    gl.store(_part_at(parts, share), gl.convert_layout(gl.where(is_left, right, left), _LEAVING))
    BARRIER()
    _set(flags + share, 1)
    other = share ^ 1
    _wait_for(flags + other)
    BARRIER()
    _set(flags + other, 0)
    own += gl.load(_part_at(parts, other))
    leave_half(out_desc, own.to(out_desc.dtype), leaving, row, column + gl.where(is_left, 0, H))


@gluon.jit
def _part_at(parts, share):
    """Where a share's sums of the other's half lie, `[TILE, HALF]`."""
    r = gl.arange(0, T, gl.SliceLayout(1, _LEAVING))
    n = gl.arange(0, H, gl.SliceLayout(0, _LEAVING))
    return parts + share * (T * H) + (r * H)[:, None] + n[None, :]


@gluon.jit
def _set(flag, value):
    """By one thread. Who sees it sees what this warpgroup stored before a barrier."""
    thread = gl.arange(0, 128, _THREADS)
    gl.inline_asm_elementwise(
        """{
        .reg .pred is_first;
        setp.eq.s32 is_first, $2, 0;
        @is_first st.release.gpu.global.b32 [$1], $3;
        mov.b32 $0, 0;
        }""",
        "=r,l,r,r", [(flag + thread * 0).to(gl.int64), thread, thread * 0 + value], gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def _wait_for(flag):
    """Until it is set."""
    thread = gl.arange(0, 128, _THREADS)
    gl.inline_asm_elementwise(
        """{
        .reg .pred is_unset;
        again: ld.acquire.gpu.global.b32 $0, [$1];
        setp.eq.s32 is_unset, $0, 0;
        @is_unset bra again;
        }""",
        "=r,l", [(flag + thread * 0).to(gl.int64)], gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def leave_half(out_desc, half, leaving, row, column):
    """Stores `[TILE, HALF]` from there on."""
    half = gl.convert_layout(half, _LEAVING)
    tma.store_wait(0)
    BARRIER()
    leaving.store(half)
    fence_async_shared()
    BARRIER()
    ASYNC_STORE(out_desc, [row, column], leaving)
