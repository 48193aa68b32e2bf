"""Prefill attention on Hopper GPUs in Gluon: pages by TMA, two warpgroups of queries that share each tile of tokens.

The same tiles of rows as in `kernels.attention.kernel.prefill`. A warp of its own fetches the pages of a tile of
tokens into shared memory, where together they have the layout that wgmma reads; two warpgroups of 64 rows each
consume them, one computing weights while the other multiplies.
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

from kernels.attention.kernel.hopper_pages import (
    allocate_barriers,
    allocate_chunks,
    clear_unwritten,
    fetch,
    running_sum,
    tiles_of,
)
from kernels.gluon import BARRIER, SWIZZLED


@gluon.jit
def _weigh(
    scores, total, highest, first_token, positions, window, scale_log2,
    MASKED: gl.constexpr, HAS_WINDOW: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_TOKENS: gl.constexpr,
    DTYPE: gl.constexpr,
):  # fmt: skip
    """A step of the online softmax: the weights of a tile as the next product's operand, and how much others fade."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_TOKENS, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    if MASKED:
        tokens = first_token + gl.arange(0, BLOCK_TOKENS, gl.SliceLayout(0, s_layout))
        seen = tokens[None, :] <= positions[:, None]
        if HAS_WINDOW:
            seen = seen & (tokens[None, :] > positions[:, None] - window)
        scores = gl.where(seen, scores, float("-inf"))
    higher = gl.maximum(highest, gl.max(scores, 1) * scale_log2)
    base = higher
    if MASKED:  # a row may have seen nothing yet
        base = gl.where(higher == float("-inf"), 0.0, higher)
    weights = gl.exp2(scores * scale_log2 - base[:, None])
    fade = gl.exp2(highest - base)
    total = total * fade + gl.sum(weights, 1)
    weights = gl.convert_layout(weights.to(DTYPE), gl.DotOperandLayout(0, o_layout, 2))
    return weights, gl.convert_layout(fade, gl.SliceLayout(1, o_layout)), total, higher


@gluon.jit
def _attend_tiles(
    state, begin, end, queries, keys, values, key_full, key_empty, value_full, value_empty,
    first_token, positions, window, scale_log2,
    MASKED: gl.constexpr, HAS_WINDOW: gl.constexpr, STAGES: gl.constexpr,
    HEAD_DIM: gl.constexpr, BLOCK_TOKENS: gl.constexpr,
):  # fmt: skip
    """Scores of tiles `[begin, end)`; while these become weights, the weights of the tile before meet its values."""
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_TOKENS, 16])
    attended, weights, total, highest = state
    for tile in range(begin, end):
        stage = tile % STAGES
        mbarrier.wait(key_full.index(stage), (tile // STAGES) & 1)
        scores = gl.zeros([64, BLOCK_TOKENS], gl.float32, s_layout)
        scores = warpgroup_mma(queries, keys.index(stage).permute((1, 0)), scores, use_acc=False, is_async=True)
        before = (tile - 1) % STAGES
        mbarrier.wait(value_full.index(before), ((tile - 1) // STAGES) & 1)
        attended = warpgroup_mma(weights, values.index(before), attended, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[scores])
        mbarrier.arrive(key_empty.index(stage), count=1)
        next_weights, fade, total, highest = _weigh(
            scores, total, highest, first_token + tile * BLOCK_TOKENS, positions, window, scale_log2,
            MASKED, HAS_WINDOW, HEAD_DIM, BLOCK_TOKENS, values.dtype,
        )  # fmt: skip
        attended = warpgroup_mma_wait(0, deps=[attended])
        mbarrier.arrive(value_empty.index(before), count=1)
        attended = attended * fade[:, None]
        weights = next_weights
    return attended, weights, total, highest


@gluon.jit
def _attend(
    output, query, queries, keys, values, value_pages, key_full, key_empty, value_full, value_empty,
    part, kv_head, seq_start, tile_start, num_rows, context,
    first_token, full_first, full_stop, num_tiles, window, scale_log2,
    output_stride, query_stride, query_head_stride,
    HAS_WINDOW: gl.constexpr, STAGES: gl.constexpr, GROUP: gl.constexpr, TILE_ROWS: gl.constexpr,
    HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr, BLOCK_TOKENS: gl.constexpr,
):  # fmt: skip
    """A consumer: 64 of the tile's queries, the `part`th."""
    q_layout: gl.constexpr = gl.BlockedLayout([1, 8], [64 // (HEAD_DIM // 4), HEAD_DIM // 8], [4, 1], [1, 0])
    lane = part * 64 + gl.arange(0, 64, gl.SliceLayout(1, q_layout))
    dims = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, q_layout))
    row = tile_start + lane // GROUP
    is_row = (lane < TILE_ROWS * GROUP) & (row < num_rows)
    pointers = (seq_start + row).to(gl.int64) * query_stride + (kv_head * GROUP + lane % GROUP) * query_head_stride
    queries = queries.index(part)
    queries.store(gl.load(query + pointers[:, None] + dims[None, :], mask=is_row[:, None], other=0.0))
    fence_async_shared()
    BARRIER()

    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_TOKENS, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    first_position = context - num_rows + tile_start
    positions = first_position + (part * 64 + gl.arange(0, 64, gl.SliceLayout(1, s_layout))) // GROUP
    total = gl.zeros([64], gl.float32, gl.SliceLayout(1, s_layout))
    highest = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
    mbarrier.wait(key_full.index(0), 0)
    scores = gl.zeros([64, BLOCK_TOKENS], gl.float32, s_layout)
    scores = warpgroup_mma(queries, keys.index(0).permute((1, 0)), scores, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(key_empty.index(0), count=1)
    weights, _, total, highest = _weigh(
        scores, total, highest, first_token, positions, window, scale_log2,
        True, HAS_WINDOW, HEAD_DIM, BLOCK_TOKENS, values.dtype,
    )  # fmt: skip
    state = (gl.zeros([64, HEAD_DIM], gl.float32, o_layout), weights, total, highest)
    if HAS_WINDOW:
        state = _attend_tiles(
            state, 1, full_first, queries, keys, values, key_full, key_empty, value_full, value_empty,
            first_token, positions, window, scale_log2, True, True, STAGES, HEAD_DIM, BLOCK_TOKENS,
        )  # fmt: skip
    full_first = gl.maximum(full_first, 1)
    full_stop = gl.maximum(full_stop, 1)
    state = _attend_tiles(
        state, full_first, full_stop, queries, keys, values, key_full, key_empty, value_full, value_empty,
        first_token, positions, window, scale_log2, False, HAS_WINDOW, STAGES, HEAD_DIM, BLOCK_TOKENS,
    )  # fmt: skip
    state = _attend_tiles(
        state, full_stop, num_tiles, queries, keys, values, key_full, key_empty, value_full, value_empty,
        first_token, positions, window, scale_log2, True, HAS_WINDOW, STAGES, HEAD_DIM, BLOCK_TOKENS,
    )  # fmt: skip
    attended, weights, total, _ = state
    stage = (num_tiles - 1) % STAGES
    mbarrier.wait(value_full.index(stage), ((num_tiles - 1) // STAGES) & 1)
    PAGES: gl.constexpr = BLOCK_TOKENS // BLOCK_SIZE
    HALVES: gl.constexpr = HEAD_DIM // 64
    last_page = context // BLOCK_SIZE - (first_token // BLOCK_SIZE + (num_tiles - 1) * PAGES)
    if (context % BLOCK_SIZE > 0) & (last_page < PAGES):
        clear_unwritten(
            value_pages, stage * HALVES * PAGES + last_page, PAGES, context % BLOCK_SIZE, BLOCK_SIZE, HALVES
        )
    attended = warpgroup_mma(weights, values.index(stage), attended, is_async=True)
    attended = warpgroup_mma_wait(0, deps=[attended])
    attended = attended / gl.convert_layout(total, gl.SliceLayout(1, o_layout))[:, None]
    lane = part * 64 + gl.arange(0, 64, gl.SliceLayout(1, o_layout))
    dims = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, o_layout))
    row = tile_start + lane // GROUP
    is_row = (lane < TILE_ROWS * GROUP) & (row < num_rows)
    pointers = (seq_start + row).to(gl.int64) * output_stride + (kv_head * GROUP + lane % GROUP) * HEAD_DIM
    gl.store(output + pointers[:, None] + dims[None, :], attended.to(output.dtype.element_ty), mask=is_row[:, None])


@gluon.jit(do_not_specialize=["num_seqs", "table_stride", "capacity", "window"])
def prefill(
    output, query, desc, query_start, context_lens, block_table,
    num_seqs, output_stride, query_stride, query_head_stride, table_stride, capacity,
    scale_log2, window,
    HAS_WINDOW: gl.constexpr, NUM_KV_HEADS: gl.constexpr, GROUP: gl.constexpr, HEAD_DIM: gl.constexpr,
    BLOCK_SIZE: gl.constexpr, BLOCK_TOKENS: gl.constexpr, BLOCK_SEQS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Tiles of 128 lanes, each a row's query head of one KV head, taken in turn by programs of nine warps.

    A sequence of one row has no tile: most of a batch may be decodes, and a program that finds nothing to do still
    waits for a multiprocessor's shared memory.
    """
    TILE_ROWS: gl.constexpr = 128 // GROUP
    HALVES: gl.constexpr = HEAD_DIM // 64
    PAGES: gl.constexpr = BLOCK_TOKENS // BLOCK_SIZE
    DTYPE: gl.constexpr = output.dtype.element_ty
    gdc_launch_dependents()
    gdc_wait()
    seqs = gl.arange(0, BLOCK_SEQS, gl.BlockedLayout([1], [32], [4], [0]))
    starts = gl.load(query_start + seqs, mask=seqs < num_seqs, other=0)
    lengths = gl.load(query_start + seqs + 1, mask=seqs < num_seqs, other=0) - starts
    counts = gl.where((seqs < num_seqs) & (lengths > 1), (lengths + TILE_ROWS - 1) // TILE_ROWS, 0)
    ends = running_sum(counts)
    num_tiles = gl.max(ends, 0)
    for item in range(gl.program_id(0), num_tiles * NUM_KV_HEADS, gl.num_programs(0)):
        kv_head = item % NUM_KV_HEADS
        tile = num_tiles - 1 - item // NUM_KV_HEADS  # the last rows see most tokens, and go first
        seq = gl.sum((ends <= tile).to(gl.int32), 0)
        tile_start = (tile - gl.sum(gl.where(seqs == seq, ends - counts, 0), 0)) * TILE_ROWS  # in the sequence's rows
        seq_start = gl.load(query_start + seq)
        num_rows = gl.load(query_start + seq + 1) - seq_start
        context = gl.minimum(gl.load(context_lens + seq), capacity)
        first_position = context - num_rows + tile_start
        last_position = gl.minimum(first_position + TILE_ROWS, context) - 1
        # In tiles of tokens: the first that some row sees, the first and the end of those that all rows see wholly.
        first = 0
        full_first = 0
        if HAS_WINDOW:
            first = gl.maximum(first_position - window + 1, 0) // BLOCK_TOKENS
            full_first = gl.cdiv(gl.maximum(last_position - window + 1, 0), BLOCK_TOKENS)
        stop = gl.cdiv(last_position + 1, BLOCK_TOKENS)
        full_first = gl.minimum(full_first, stop)
        full_stop = gl.maximum((first_position + 1) // BLOCK_TOKENS, full_first)

        queries = gl.allocate_shared_memory(DTYPE, [2, 64, HEAD_DIM], SWIZZLED)
        keys = allocate_chunks(DTYPE, STAGES, BLOCK_TOKENS, HEAD_DIM, BLOCK_SIZE)
        values = allocate_chunks(DTYPE, STAGES, BLOCK_TOKENS, HEAD_DIM, BLOCK_SIZE)
        key_tiles = tiles_of(keys, STAGES, BLOCK_TOKENS, HEAD_DIM)
        value_tiles = tiles_of(values, STAGES, BLOCK_TOKENS, HEAD_DIM)
        key_full, key_empty = allocate_barriers(1, STAGES), allocate_barriers(2, STAGES)
        value_full, value_empty = allocate_barriers(1, STAGES), allocate_barriers(2, STAGES)
        fence_async_shared()
        BARRIER()
        gl.warp_specialize(
            [
                (
                    _attend,
                    (
                        output,
                        query,
                        queries,
                        key_tiles,
                        value_tiles,
                        values,
                        key_full,
                        key_empty,
                        value_full,
                        value_empty,
                        0,
                        kv_head,
                        seq_start,
                        tile_start,
                        num_rows,
                        context,
                        first * BLOCK_TOKENS,
                        full_first - first,
                        full_stop - first,
                        stop - first,
                        window,
                        scale_log2,
                        output_stride,
                        query_stride,
                        query_head_stride,
                        HAS_WINDOW,
                        STAGES,
                        GROUP,
                        TILE_ROWS,
                        HEAD_DIM,
                        BLOCK_SIZE,
                        BLOCK_TOKENS,
                    ),
                ),
                (
                    _attend,
                    (
                        output,
                        query,
                        queries,
                        key_tiles,
                        value_tiles,
                        values,
                        key_full,
                        key_empty,
                        value_full,
                        value_empty,
                        1,
                        kv_head,
                        seq_start,
                        tile_start,
                        num_rows,
                        context,
                        first * BLOCK_TOKENS,
                        full_first - first,
                        full_stop - first,
                        stop - first,
                        window,
                        scale_log2,
                        output_stride,
                        query_stride,
                        query_head_stride,
                        HAS_WINDOW,
                        STAGES,
                        GROUP,
                        TILE_ROWS,
                        HEAD_DIM,
                        BLOCK_SIZE,
                        BLOCK_TOKENS,
                    ),
                ),
                (
                    fetch,
                    (
                        desc,
                        block_table + seq.to(gl.int64) * table_stride,
                        keys,
                        values,
                        key_full,
                        key_empty,
                        value_full,
                        value_empty,
                        kv_head * HEAD_DIM,
                        first * PAGES,
                        stop - first,
                        gl.cdiv(last_position + 1, BLOCK_SIZE),
                        0,
                        BLOCK_SIZE,
                        PAGES,
                        HALVES,
                        STAGES,
                    ),
                ),
            ],
            [4, 1],
            [240, 24],
        )
        BARRIER()
        for stage in gl.static_range(STAGES):
            mbarrier.invalidate(key_full.index(stage))
            mbarrier.invalidate(key_empty.index(stage))
            mbarrier.invalidate(value_full.index(stage))
            mbarrier.invalidate(value_empty.index(stage))
