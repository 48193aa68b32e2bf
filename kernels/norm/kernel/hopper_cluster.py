"""RMSNorm of few rows with adapters on Hopper GPUs in Gluon: a cluster of programs holds a row.

A program has a part of the columns, so it has registers for all of B that these need, and finds room beside the kernel
in front: its B comes while that one runs. A program of a whole row would begin when a processor is empty.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from kernels.lora.kernel.delta import owned, part_of
from kernels.lora.kernel.tiling import page_of, room_of

PROGRAMS = 8  # of a cluster: as many as any device has room for
LANES = 8  # columns of a thread, of which it has all ranks
_PROGRAMS = gl.constexpr(PROGRAMS)
# What a program wrote before all have met can be read by all of them after.
_MEET = gl.constexpr("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned; mov.b32 $0, $1;")


@gluon.constexpr_function
def _matrix(ranks, num_warps):
    """`[PROGRAMS, RANKS, COLUMNS]`, a part for each program."""
    bits = [[1, 0, 0], [2, 0, 0], [4, 0, 0]]
    return gl.BlockedLayout([1, ranks, LANES], [1, 1, 32], [1, 1, num_warps], [2, 1, 0], bits)


@gluon.constexpr_function
def _places(num_warps):
    """`[PROGRAMS, RANKS]`, a part for each program, and of that an element for each thread."""
    return gl.BlockedLayout([1, 1], [2, 16], [1, num_warps], [1, 0], [[1, 0], [2, 0], [4, 0]])


@gluon.constexpr_function
def _alike(size, num_warps):
    """The same for all programs; so many elements for each thread."""
    return gl.BlockedLayout([size], [32], [num_warps], [0], [[0], [0], [0]])


@gluon.jit(do_not_specialize=["table_stride"])
def norm_rows(
    output, hidden, update, weight, squares, hidden_stride, update_stride, width, epsilon,
    bridge, owners, records, lora_pages, page_table, table_stride,
    COLUMNS: gl.constexpr, PIECES: gl.constexpr, BRIDGE: gl.constexpr, RECORD: gl.constexpr, PAGE: gl.constexpr,
    RANKS: gl.constexpr,
):  # fmt: skip
    """`hidden += update + share; output = norm(hidden) * weight`; `squares`, `[num_rows, PROGRAMS]`, is for sums."""
    gdc_launch_dependents()
    matrix: gl.constexpr = _matrix(RANKS, gl.num_warps())
    part: gl.constexpr = gl.SliceLayout(1, matrix)
    dtype: gl.constexpr = output.dtype.element_ty
    row = gl.program_id(0).to(gl.int64)
    program = gl.arange(0, _PROGRAMS, gl.SliceLayout(1, part))
    column = (program * COLUMNS)[:, None] + gl.arange(0, COLUMNS, gl.SliceLayout(0, part))[None, :]
    inside = (program * COLUMNS < width)[:, None]
    rank, place, _, scale, table, most = owned(gl.load(owners + row), 0, records, page_table, table_stride, 1, RECORD)
    b = _b_of(0, rank, place, table, width, lora_pages, COLUMNS, PAGE, RANKS)
    factor = gl.load(weight + column, mask=inside, other=0.0).to(gl.float32)
    gdc_wait()
    at = hidden + row * hidden_stride + column
    values = gl.load(at, mask=inside, other=0.0).to(gl.float32)
    added = gl.load(update + row * update_stride + column, mask=inside, other=0.0).to(gl.float32)
    parts = bridge + row * (PIECES * BRIDGE)
    share = _product(b, parts, 0, rank, dtype, PIECES, BRIDGE, RANKS)
    for block in range(RANKS, most, RANKS):
        b = _b_of(block, rank, place, table, width, lora_pages, COLUMNS, PAGE, RANKS)
        share += _product(b, parts, block, rank, dtype, PIECES, BRIDGE, RANKS)
    added = (added + share * scale).to(dtype).to(gl.float32)
    total = (values + added).to(dtype)
    gl.store(at, total, mask=inside)
    values = total.to(gl.float32)
    gl.store(squares + row * _PROGRAMS + program, gl.sum(values * values, 1))
    thread = gl.arange(0, 32 * gl.num_warps(), _alike(1, gl.num_warps()))
    gl.inline_asm_elementwise(_MEET, "=r,r", [thread], gl.int32, is_pure=False, pack=1)
    all_squares = gl.load(squares + row * _PROGRAMS + gl.arange(0, _PROGRAMS, _alike(_PROGRAMS, gl.num_warps())))
    normed = (values * (1.0 / gl.sqrt(gl.sum(all_squares, 0) / width + epsilon))).to(dtype).to(gl.float32)
    gl.store(output + row * width + column, (normed * factor).to(dtype), mask=inside)


@gluon.jit
def _b_of(
    block, rank, place, table, width, lora_pages,
    COLUMNS: gl.constexpr, PAGE: gl.constexpr, RANKS: gl.constexpr,
):  # fmt: skip
    """Rows of transposed B from rank `block` on, `[PROGRAMS, RANKS, COLUMNS]`; zeros from `rank` on."""
    places: gl.constexpr = _places(gl.num_warps())
    matrix: gl.constexpr = _matrix(RANKS, gl.num_warps())
    # A thread looks up one page, and not one for every rank that it multiplies.
    start = gl.arange(0, _PROGRAMS, gl.SliceLayout(1, places))[:, None] * COLUMNS
    r = block + gl.arange(0, RANKS, gl.SliceLayout(0, places))[None, :]
    there = (start < width) & (r < rank)
    element = place + r * width + start
    base = gl.where(there, page_of(table, element, there, PAGE) + element % PAGE, -1)
    base = gl.convert_layout(base, gl.SliceLayout(2, matrix))[:, :, None]
    n = gl.arange(0, COLUMNS, gl.SliceLayout(0, gl.SliceLayout(1, matrix)))[None, None, :]
    return gl.load(gl.multiple_of(lora_pages + base + n, [16, 16, 16]), mask=base >= 0, other=0.0)


@gluon.jit
def _product(
    b, parts, block, rank,
    dtype: gl.constexpr, PIECES: gl.constexpr, BRIDGE: gl.constexpr, RANKS: gl.constexpr,
):  # fmt: skip
    """Ranks of the bridge times their rows of B, `[PROGRAMS, COLUMNS]`."""
    r = block + gl.arange(0, RANKS, _alike(1, gl.num_warps()))
    of_rank = part_of(parts + r, r < room_of(rank), r < rank, dtype, PIECES, BRIDGE)
    of_rank = gl.convert_layout(of_rank, gl.SliceLayout(0, gl.SliceLayout(2, _matrix(RANKS, gl.num_warps()))))
    return gl.sum(of_rank.to(gl.float32)[None, :, None] * b.to(gl.float32), 1)
