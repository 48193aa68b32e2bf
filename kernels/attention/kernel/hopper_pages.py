"""Tiles of tokens on Hopper GPUs: pages of the pool into shared memory by TMA.

A tile's pages, half a head each, lie there as wgmma reads the whole: 64 columns of all its tokens, then the next 64.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier

from kernels.gluon import ASYNC_LOAD, BARRIER, REINTERPRET, SWIZZLED


@gluon.jit
def _add(left, right):
    return left + right


@gluon.jit
def running_sum(counts):
    """The sums of counts up to each, `[n]`: the ends of what each sequence is cut into."""
    return gl.associative_scan(counts, 0, _add)


@gluon.jit
def allocate_chunks(
    DTYPE: gl.constexpr, STAGES: gl.constexpr, BLOCK_TOKENS: gl.constexpr, HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr,
):  # fmt: skip
    """Shared memory for tiles, as the chunks of them that TMA writes: 64 columns of a page."""
    count: gl.constexpr = STAGES * (HEAD_DIM // 64) * (BLOCK_TOKENS // BLOCK_SIZE)
    return gl.allocate_shared_memory(DTYPE, [count, BLOCK_SIZE, 64], SWIZZLED)


@gluon.jit
def tiles_of(chunks, STAGES: gl.constexpr, BLOCK_TOKENS: gl.constexpr, HEAD_DIM: gl.constexpr):
    """The same memory as `[STAGES, BLOCK_TOKENS, HEAD_DIM]`."""
    shape: gl.constexpr = [STAGES, BLOCK_TOKENS, HEAD_DIM]
    return REINTERPRET(chunks, chunks.dtype, shape, SWIZZLED)


@gluon.jit
def allocate_barriers(COUNT: gl.constexpr, STAGES: gl.constexpr):
    """A barrier for each stage, that completes when `COUNT` have arrived."""
    barriers = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(barriers.index(stage), count=COUNT)
    return barriers


@gluon.jit
def fetch(
    desc, table, keys, values, key_full, key_empty, value_full, value_empty,
    column, first_block, num_tiles, stop_block, fetched,
    BLOCK_SIZE: gl.constexpr, PAGES: gl.constexpr, HALVES: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Fetches tiles in turn, the keys of each, then its values; `fetched` were before, and it gives how many are now.

    Blocks from `stop_block` on are taken from outside of `desc`, which gives zeros; so do pages that are none.
    """
    TILE_BYTES: gl.constexpr = PAGES * HALVES * BLOCK_SIZE * 64 * 2
    for tile in range(num_tiles):
        stage = (fetched + tile) % STAGES
        phase = ((fetched + tile) // STAGES) & 1
        rows = ()
        for page in gl.static_range(PAGES):
            block = first_block + tile * PAGES + page
            held = gl.load(table + block, mask=block < stop_block, other=-1)
            rows = rows + (held * (2 * BLOCK_SIZE),)  # type: ignore[assignment]  # noqa: RUF005 - no stars in Triton
        mbarrier.wait(key_empty.index(stage), phase ^ 1)
        mbarrier.expect(key_full.index(stage), TILE_BYTES)
        for page in gl.static_range(PAGES):
            for half in gl.static_range(HALVES):
                chunk = keys.index((stage * HALVES + half) * PAGES + page)
                ASYNC_LOAD(desc, [rows[page], column + half * 64], key_full.index(stage), chunk)
        mbarrier.wait(value_empty.index(stage), phase ^ 1)
        mbarrier.expect(value_full.index(stage), TILE_BYTES)
        for page in gl.static_range(PAGES):
            for half in gl.static_range(HALVES):
                chunk = values.index((stage * HALVES + half) * PAGES + page)
                ASYNC_LOAD(desc, [rows[page] + BLOCK_SIZE, column + half * 64], value_full.index(stage), chunk)
    return fetched + num_tiles


@gluon.jit
def clear_unwritten(chunks, first_chunk, chunk_step, num_written, BLOCK_SIZE: gl.constexpr, HALVES: gl.constexpr):
    """Zeroes what follows the written tokens of a page in shared memory: weight 0 times NaN would be NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    is_written = gl.arange(0, BLOCK_SIZE, gl.SliceLayout(1, layout)) < num_written
    for half in gl.static_range(HALVES):
        chunk = chunks.index(first_chunk + half * chunk_step)
        held = chunk.load(layout)
        chunk.store(gl.where(is_written[:, None], held, gl.zeros_like(held)))
    fence_async_shared()
    BARRIER()
