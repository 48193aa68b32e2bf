"""Decode attention on Hopper GPUs in Gluon: a warp streams pages by TMA, a warpgroup consumes them.

Sequences are cut in even splits, as in `kernels.attention.kernel.decode`, but longer ones. Programs come in teams of
one for each KV head. A team has neighbouring splits, which cost about as much as every other's: contexts differ, and
with as many splits for each some would have a third more to read than others. A program's splits follow one another
without a gap: the fetching warp runs ahead of the warpgroup over their borders, as far as shared memory holds.

A launch begins while the kernel before it ends: it reads the batch's tables at once, and waits before it touches what
that kernel may read or write.
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
from kernels.gluon import BARRIER


@gluon.jit
def _split_tokens(visible, MIN_SPLIT: gl.constexpr, MAX_SPLITS: gl.constexpr, BLOCK_TOKENS: gl.constexpr):
    """Of even splits: as many as have `MIN_SPLIT` tokens each."""
    number = gl.minimum(gl.maximum(visible // MIN_SPLIT, 1), MAX_SPLITS)
    return gl.maximum(gl.cdiv(gl.cdiv(visible, number), BLOCK_TOKENS), 1) * BLOCK_TOKENS


@gluon.jit
def _first_token(context, window, HAS_WINDOW: gl.constexpr, BLOCK_TOKENS: gl.constexpr):
    """Where the first split begins: at a tile of tokens, so that pages are whole."""
    first = context * 0
    if HAS_WINDOW:
        first = gl.maximum(context - window, 0) // BLOCK_TOKENS * BLOCK_TOKENS
    return first


@gluon.jit
def _split_at(
    place, ends, context_lens, capacity, window,
    HAS_WINDOW: gl.constexpr, BLOCK_TOKENS: gl.constexpr, MIN_SPLIT: gl.constexpr, MAX_SPLITS: gl.constexpr,
):  # fmt: skip
    """The split at a place in the sum of all costs: its sequence and context, its number and tokens, where it begins.

    A split costs its tiles of tokens, and one for all that is not of a tile.
    """
    before = ends <= place
    seq = gl.sum(before.to(gl.int32), 0)
    seq_place = gl.max(gl.where(before, ends, 0), 0)
    context = gl.minimum(gl.load(context_lens + seq), capacity)
    first = _first_token(context, window, HAS_WINDOW, BLOCK_TOKENS)
    tokens = _split_tokens(context - first, MIN_SPLIT, MAX_SPLITS, BLOCK_TOKENS)
    cost = tokens // BLOCK_TOKENS + 1
    split = (place - seq_place) // cost
    begin = first + split * tokens
    return seq, context, split, begin, gl.minimum(begin + tokens, context), seq_place + split * cost


@gluon.jit
def _border(
    team, num_teams, ends, all_costs, context_lens, capacity, window,
    HAS_WINDOW: gl.constexpr, BLOCK_TOKENS: gl.constexpr, MIN_SPLIT: gl.constexpr, MAX_SPLITS: gl.constexpr,
):  # fmt: skip
    """The place where a team's first split begins: where a split begins or ends, the nearest to an even share."""
    even = (all_costs.to(gl.int64) * team // num_teams).to(gl.int32)
    border = all_costs
    if even < all_costs:
        _, _, _, begin, end, place = _split_at(
            even, ends, context_lens, capacity, window, HAS_WINDOW, BLOCK_TOKENS, MIN_SPLIT, MAX_SPLITS
        )
        next_place = place + gl.cdiv(end - begin, BLOCK_TOKENS) + 1
        border = gl.where(2 * even <= place + next_place, place, next_place)
    return border


@gluon.jit
def _fetch_splits(
    desc, keys, values, key_full, key_empty, value_full, value_empty,
    place, stop, kv_head, ends_shared, context_lens, block_table, table_stride, capacity, window,
    HAS_WINDOW: gl.constexpr, HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr,
    BLOCK_TOKENS: gl.constexpr, MIN_SPLIT: gl.constexpr, MAX_SPLITS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The producer."""
    PAGES: gl.constexpr = BLOCK_TOKENS // BLOCK_SIZE
    ends = ends_shared.load(gl.BlockedLayout([1], [32], [1], [0]))
    fetched = 0
    while place < stop:
        seq, _, _, begin, end, _ = _split_at(
            place, ends, context_lens, capacity, window, HAS_WINDOW, BLOCK_TOKENS, MIN_SPLIT, MAX_SPLITS
        )
        num_tiles = gl.cdiv(end - begin, BLOCK_TOKENS)
        fetched = fetch(
            desc, block_table + seq.to(gl.int64) * table_stride,
            keys, values, key_full, key_empty, value_full, value_empty,
            kv_head * HEAD_DIM, begin // BLOCK_SIZE, num_tiles, gl.cdiv(end, BLOCK_SIZE), fetched,
            BLOCK_SIZE, PAGES, HEAD_DIM // 64, STAGES,
        )  # fmt: skip
        place += num_tiles + 1


@gluon.jit
def _attend_splits(
    output, query, keys, values, value_pages, key_full, key_empty, value_full, value_empty,
    place, stop, kv_head, ends_shared, query_start, context_lens, capacity, partial, stats, held_splits, window,
    scale_log2, output_stride, query_stride, query_head_stride,
    HAS_WINDOW: gl.constexpr, NUM_KV_HEADS: gl.constexpr, GROUP: gl.constexpr,
    HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr, BLOCK_TOKENS: gl.constexpr, MIN_SPLIT: gl.constexpr,
    MAX_SPLITS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The consumer: the query heads of a KV head are the first of a warpgroup's 64 rows."""
    PAGES: gl.constexpr = BLOCK_TOKENS // BLOCK_SIZE
    HALVES: gl.constexpr = HEAD_DIM // 64
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_TOKENS, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    q_layout: gl.constexpr = gl.DotOperandLayout(0, s_layout, 2)
    ends = ends_shared.load(gl.BlockedLayout([1], [32], [4], [0]))
    q_heads = gl.arange(0, 64, gl.SliceLayout(1, q_layout))
    q_dims = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, q_layout))
    heads = gl.arange(0, 64, gl.SliceLayout(1, o_layout))
    dims = gl.arange(0, HEAD_DIM, gl.SliceLayout(0, o_layout))
    used = 0
    while place < stop:
        seq, context, split, begin, end, _ = _split_at(
            place, ends, context_lens, capacity, window, HAS_WINDOW, BLOCK_TOKENS, MIN_SPLIT, MAX_SPLITS
        )
        row = gl.load(query_start + seq).to(gl.int64)
        q = gl.load(
            query + row * query_stride + (kv_head * GROUP + q_heads)[:, None] * query_head_stride + q_dims[None, :],
            mask=(q_heads < GROUP)[:, None],
            other=0.0,
        )
        total = gl.zeros([64], gl.float32, gl.SliceLayout(1, s_layout))
        highest = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, s_layout))
        attended = gl.zeros([64, HEAD_DIM], gl.float32, o_layout)
        for start in range(begin, end, BLOCK_TOKENS):
            stage = used % STAGES
            phase = (used // STAGES) & 1
            mbarrier.wait(key_full.index(stage), phase)
            scores = gl.zeros([64, BLOCK_TOKENS], gl.float32, s_layout)
            scores = warpgroup_mma(q, keys.index(stage).permute((1, 0)), scores, use_acc=False, is_async=True)
            scores = warpgroup_mma_wait(0, deps=[scores])
            mbarrier.arrive(key_empty.index(stage), count=1)
            tokens = start + gl.arange(0, BLOCK_TOKENS, gl.SliceLayout(0, s_layout))
            seen = tokens < end
            if HAS_WINDOW:
                seen = seen & (tokens >= context - window)
            scores = gl.where(seen[None, :], scores, float("-inf"))
            higher = gl.maximum(highest, gl.max(scores, 1) * scale_log2)
            weights = gl.exp2(scores * scale_log2 - higher[:, None])
            fade = gl.exp2(highest - higher)
            total = total * fade + gl.sum(weights, 1)
            attended = attended * gl.convert_layout(fade, gl.SliceLayout(1, o_layout))[:, None]
            highest = higher
            weights = gl.convert_layout(weights.to(values.dtype), gl.DotOperandLayout(0, o_layout, 2))
            mbarrier.wait(value_full.index(stage), phase)
            if (context - start < BLOCK_TOKENS) & (context % BLOCK_SIZE > 0):
                page = stage * HALVES * PAGES + (context - start) // BLOCK_SIZE
                clear_unwritten(value_pages, page, PAGES, context % BLOCK_SIZE, BLOCK_SIZE, HALVES)
            attended = warpgroup_mma(weights, values.index(stage), attended, is_async=True)
            attended = warpgroup_mma_wait(0, deps=[attended])
            mbarrier.arrive(value_empty.index(stage), count=1)
            used += 1

        total = gl.convert_layout(total, gl.SliceLayout(1, o_layout))
        is_head = heads < GROUP
        if (split == 0) & (end == context):
            attended = attended / total[:, None]
            gl.store(
                output + row * output_stride + (kv_head * GROUP + heads)[:, None] * HEAD_DIM + dims[None, :],
                attended.to(output.dtype.element_ty),
                mask=is_head[:, None],
            )
        else:
            slots = ((seq * NUM_KV_HEADS + kv_head).to(gl.int64) * GROUP + heads) * held_splits + split
            gl.store(partial + slots[:, None] * HEAD_DIM + dims[None, :], attended, mask=is_head[:, None])
            gl.store(stats + slots * 2, gl.convert_layout(highest, gl.SliceLayout(1, o_layout)), mask=is_head)
            gl.store(stats + slots * 2 + 1, total, mask=is_head)
        place += gl.cdiv(end - begin, BLOCK_TOKENS) + 1


@gluon.jit(do_not_specialize=["num_seqs", "table_stride", "capacity", "held_splits", "window"])
def decode(
    output, query, desc, query_start, context_lens, block_table, partial, stats, counts,
    num_seqs, output_stride, query_stride, query_head_stride, table_stride, capacity, held_splits, scale_log2, window,
    HAS_WINDOW: gl.constexpr, NUM_KV_HEADS: gl.constexpr, GROUP: gl.constexpr,
    HEAD_DIM: gl.constexpr, BLOCK_SIZE: gl.constexpr, BLOCK_TOKENS: gl.constexpr, MIN_SPLIT: gl.constexpr,
    MAX_SPLITS: gl.constexpr, BLOCK_SEQS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Splits of all sequences of one row, shared among a fixed number of programs: a warp fetches, four multiply."""
    gdc_launch_dependents()
    seqs = gl.arange(0, BLOCK_SEQS, gl.BlockedLayout([1], [32], [4], [0]))
    exists = seqs < num_seqs
    starts = gl.load(query_start + seqs, mask=exists, other=0)
    num_rows = gl.load(query_start + seqs + 1, mask=exists, other=0) - starts
    context = gl.minimum(gl.load(context_lens + seqs, mask=exists, other=0), capacity)
    visible = context - _first_token(context, window, HAS_WINDOW, BLOCK_TOKENS)
    visible = gl.where(num_rows == 1, visible, 0)
    splits = gl.cdiv(visible, _split_tokens(visible, MIN_SPLIT, MAX_SPLITS, BLOCK_TOKENS))
    costs = gl.cdiv(visible, BLOCK_TOKENS) + splits
    ends = running_sum(costs)  # those of the sequences up to this one
    all_costs = gl.sum(costs, 0)
    ends_shared = gl.allocate_shared_memory(gl.int32, [BLOCK_SEQS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    ends_shared.store(ends)
    kv_head = gl.program_id(0) % NUM_KV_HEADS
    team = gl.program_id(0) // NUM_KV_HEADS
    num_teams = gl.num_programs(0) // NUM_KV_HEADS
    place = _border(
        team, num_teams, ends, all_costs, context_lens, capacity, window,
        HAS_WINDOW, BLOCK_TOKENS, MIN_SPLIT, MAX_SPLITS,
    )  # fmt: skip
    stop = _border(
        team + 1, num_teams, ends, all_costs, context_lens, capacity, window,
        HAS_WINDOW, BLOCK_TOKENS, MIN_SPLIT, MAX_SPLITS,
    )  # fmt: skip

    DTYPE: gl.constexpr = output.dtype.element_ty
    keys = allocate_chunks(DTYPE, STAGES, BLOCK_TOKENS, HEAD_DIM, BLOCK_SIZE)
    values = allocate_chunks(DTYPE, STAGES, BLOCK_TOKENS, HEAD_DIM, BLOCK_SIZE)
    key_tiles = tiles_of(keys, STAGES, BLOCK_TOKENS, HEAD_DIM)
    value_tiles = tiles_of(values, STAGES, BLOCK_TOKENS, HEAD_DIM)
    key_full, key_empty = allocate_barriers(1, STAGES), allocate_barriers(1, STAGES)
    value_full, value_empty = allocate_barriers(1, STAGES), allocate_barriers(1, STAGES)
    fence_async_shared()
    BARRIER()
    gdc_wait()
    if gl.program_id(0) == 0:
        gl.store(counts + seqs, splits, mask=exists)
    gl.warp_specialize(
        [
            (
                _attend_splits,
                (
                    output, query, key_tiles, value_tiles, values, key_full, key_empty, value_full, value_empty,
                    place, stop, kv_head, ends_shared, query_start, context_lens, capacity, partial, stats,
                    held_splits, window, scale_log2, output_stride, query_stride, query_head_stride,
                    HAS_WINDOW, NUM_KV_HEADS, GROUP, HEAD_DIM, BLOCK_SIZE, BLOCK_TOKENS, MIN_SPLIT,
                    MAX_SPLITS, STAGES,
                ),
            ),
            (
                _fetch_splits,
                (
                    desc, keys, values, key_full, key_empty, value_full, value_empty,
                    place, stop, kv_head, ends_shared, context_lens, block_table, table_stride, capacity, window,
                    HAS_WINDOW, HEAD_DIM, BLOCK_SIZE, BLOCK_TOKENS, MIN_SPLIT, MAX_SPLITS,
                    STAGES,
                ),
            ),
        ],
        [1],
        [56],
    )  # fmt: skip
