"""`bridge[t] = x[t] @ A.T`: every row's inputs down to its own adapter's ranks.

The A matrices of a group are taken as one, `[sum of ranks, in]`, so that a row's inputs are read once for all modules.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.plan import RECORD, Plan
from kernels.lora.kernel.tiling import LINE_BYTES, adapter_of, address_of, precision_of, prefetch


def shrink(
    x: Tensor,
    pages: Tensor,
    batch: LoraBatch,
    plan: Plan,
    layer: int,
    num_modules: int,
    num_programs: int,
    **options: Any,
) -> None:
    """Fills the bridge of the rows that have an adapter, for one group of modules in one layer."""
    page_table = batch.directory.page_table
    _shrink[(num_programs,)](
        x,
        pages,
        page_table,
        plan.starts[layer],
        plan.records[layer],
        plan.bridge,
        plan.partials,
        plan.counters,
        x.stride(0),
        page_table.shape[1],
        batch.slots.shape[0],
        MODULES=num_modules,
        PRECISION=precision_of(x.dtype),
        WIDTH=plan.bridge.shape[1],
        IN=x.shape[1],
        PAGE=pages.shape[1],
        SPANS=plan.partials.shape[1],
        RECORD=RECORD,
        LINE=LINE_BYTES // x.element_size(),
        ROWWISE=plan.tiling.is_rowwise,
        SPLIT=plan.tiling.is_split,
        ROWS=plan.tiling.rows,
        RANKS=plan.tiling.ranks,
        HAS_MANY=plan.tiling.has_many,
        **plan.tiling.constants,
        **options,
    )


@triton.jit(do_not_specialize=["table_stride", "num_live"])
def _shrink(
    x,
    pages,
    page_table,
    starts,
    records,
    bridge,
    partials,
    counters,
    x_stride,
    table_stride,
    num_live,
    MODULES: tl.constexpr,
    WIDTH: tl.constexpr,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    SPANS: tl.constexpr,
    RECORD: tl.constexpr,
    ROWWISE: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_MANY: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    ROOM: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
    LINE: tl.constexpr,
):
    program = tl.program_id(0)
    adapters = tl.arange(0, LIVE)
    few_starts = tl.load(starts + adapters)
    num_few = tl.load(starts + LIVE)
    spans = tl.load(starts + LIVE + 1)
    pieces = (SPANS + spans - 1) // tl.maximum(spans, 1)
    if CHAINED:
        # While the kernel before this one ends: begin to read the first tile's rank rows.
        if program < num_few:
            live = adapter_of(few_starts, program)
            record = records + live * RECORD
            local = program - tl.load(starts + live)
            rank = tl.load(record + 3)
            table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
            r = local // pieces * FEW_RANKS + tl.arange(0, FEW_RANKS)
            rank_row = _rank_rows(record, r, MODULES, IN)
            first = local % pieces * spans * (SUBS * SUB)
            for begin in range(first, tl.minimum(first + spans * (SUBS * SUB), IN), SUBS * SUB):
                k = begin + tl.arange(0, SUBS * SUB // LINE) * LINE
                there = (r < rank)[:, None] & (k < IN)[None, :]
                prefetch(pages + address_of(table, rank_row[:, None] + k[None, :], there, PAGE), there, pages)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for tile in range(program, num_few, tl.num_programs(0)):
        live = adapter_of(few_starts, tile)
        record = records + live * RECORD
        row = tl.load(record)
        num_rows = tl.load(record + 1)
        table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
        rank = tl.load(record + 3)
        local = tile - tl.load(starts + live)
        piece = local % pieces
        block = local // pieces
        r = block * FEW_RANKS + tl.arange(0, FEW_RANKS)
        t = tl.arange(0, FEW)
        mask = (t < num_rows)[None, :] & (r < rank)[:, None]
        sums = partials + (live * FEW + t).to(tl.int64)[None, :] * (SPANS * WIDTH) + r[:, None]
        _few_rows(
            sums,
            mask,
            x + row.to(tl.int64) * x_stride,
            x_stride,
            t < num_rows,
            pages,
            table,
            _rank_rows(record, r, MODULES, IN),
            r < rank,
            piece * spans,
            tl.minimum((piece + 1) * spans, SPANS),
            WIDTH,
            IN,
            PAGE,
            SUB,
            SUBS,
            ROWWISE,
            FEW,
            FEW_RANKS,
            PRECISION,
        )
        tl.debug_barrier()
        num_ready = tl.atomic_add(counters + live * (WIDTH // FEW_RANKS) + block, 1, sem="acq_rel", scope="gpu")
        if num_ready == pieces - 1:
            whole = tl.zeros((FEW_RANKS, FEW), tl.float32)
            for step in tl.static_range(SPANS):
                whole += tl.load(sums + step * WIDTH, mask=mask, other=0.0, cache_modifier=".cg")
            to = bridge + (row + t).to(tl.int64)[None, :] * WIDTH + r[:, None]
            tl.store(to, whole.to(bridge.dtype.element_ty), mask=mask)
            tl.store(counters + live * (WIDTH // FEW_RANKS) + block, 0)
    if HAS_MANY:
        many_starts = tl.load(starts + ROOM + adapters)
        num_many = tl.load(starts + ROOM + LIVE)
        # From the other end, so that programs with one tile fewer of the first kind take one more of this.
        for tile in range(tl.num_programs(0) - 1 - program, num_many, tl.num_programs(0)):
            live = adapter_of(many_starts, tile)
            record = records + live * RECORD
            first_row = tl.load(record)
            num_rows = tl.load(record + 1)
            table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
            rank = tl.load(record + 3)
            num_blocks = (rank + RANKS - 1) // RANKS
            local = tile - tl.load(starts + ROOM + live)
            block = local % num_blocks
            local = local // num_blocks
            span = 0
            if SPLIT:
                span = local % SPANS
                local = local // SPANS
            row = first_row + local * ROWS
            r = block * RANKS + tl.arange(0, RANKS)
            is_row = local * ROWS + tl.arange(0, ROWS) < num_rows
            total = _many_rows(
                x + row.to(tl.int64) * x_stride,
                x_stride,
                is_row,
                pages,
                table,
                _rank_rows(record, r, MODULES, IN),
                r < rank,
                span,
                1 if SPLIT else SPANS,
                IN,
                PAGE,
                SUB,
                SUBS,
                ROWWISE,
                ROWS,
                RANKS,
                PRECISION,
            )  # [ROWS, RANKS]
            t = row + tl.arange(0, ROWS)[:, None]
            row_tile = first_row // ROWS + live + local
            _settle(
                total,
                is_row[:, None] & (r < rank)[None, :],
                bridge + t.to(tl.int64) * WIDTH + r[None, :],
                partials + (num_live * FEW + t).to(tl.int64) * (SPANS * WIDTH) + r[None, :],
                span,
                counters + num_live * (WIDTH // FEW_RANKS) + row_tile * (WIDTH // RANKS) + block,
                WIDTH,
                SPANS if SPLIT else 1,
            )


@triton.jit
def _rank_rows(record, r, MODULES: tl.constexpr, IN: tl.constexpr):
    """First elements of rank rows of a group, counted over its modules."""
    rank = tl.load(record + 4)
    element = tl.load(record + 5) + r * IN
    if MODULES > 1:
        element = tl.where(r >= rank, tl.load(record + 9) + (r - rank) * IN, element)
        rank += tl.load(record + 8)
    if MODULES > 2:
        element = tl.where(r >= rank, tl.load(record + 13) + (r - rank) * IN, element)
    return element


@triton.jit
def _few_rows(
    sums,
    mask,
    x,
    x_stride,
    is_row,
    pages,
    table,
    rank_row,
    is_rank,
    first_span,
    end_span,
    WIDTH: tl.constexpr,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    ROWWISE: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Spans of a few rows' product, stored one by one: of each, a sub-block for each warp, then the sum of these."""
    k = tl.arange(0, SUB)
    t = tl.arange(0, FEW)
    EVEN: tl.constexpr = IN % (SUBS * SUB) == 0
    TWO_PAGES: tl.constexpr = ROWWISE and IN <= PAGE
    if TWO_PAGES:
        head, tail, border = _two_pages(table, rank_row, is_rank, IN, PAGE)
    for span in tl.range(first_span, end_span, num_stages=3):
        start = span * SUBS * SUB + tl.arange(0, SUBS) * SUB
        at = start[:, None, None] + k[None, None, :]
        mask_a = is_rank[None, :, None]
        mask_x = is_row[None, :, None]
        if not EVEN:
            mask_a = mask_a & (at < IN)
            mask_x = mask_x & (at < IN)
        if TWO_PAGES:
            base = tl.where(start[:, None] < border[None, :], head[None, :], tail[None, :]) + start[:, None]
            base = tl.multiple_of(base, [16, 16])
            a = tl.load(pages + base[:, :, None] + k[None, None, :], mask=mask_a, other=0.0)
        elif ROWWISE:
            element = tl.multiple_of(rank_row[None, :] + start[:, None], [16, 16])
            there = is_rank[None, :] & (start < IN)[:, None]
            base = tl.multiple_of(address_of(table, element, there, PAGE), [16, 16])
            a = tl.load(pages + base[:, :, None] + k[None, None, :], mask=mask_a, other=0.0)
        else:
            each = rank_row[None, :, None] + at
            there = is_rank[None, :, None] & (at < IN)
            a = tl.load(pages + address_of(table, each, there, PAGE), mask=there, other=0.0)
        rows = tl.load(x + t[None, :, None] * x_stride + at, mask=mask_x, other=0.0)
        products = tl.dot(a, tl.trans(rows, (0, 2, 1)), input_precision=PRECISION)  # [SUBS, RANKS, FEW]
        front, back = tl.split(tl.trans(tl.reshape(products, (2, 2, RANKS, FEW)), (2, 3, 1, 0)))
        first, second = tl.split(front)
        third, fourth = tl.split(back)
        tl.store(sums + span * WIDTH, ((first + second) + third) + fourth, mask=mask)


@triton.jit
def _two_pages(table, rank_row, is_rank, IN: tl.constexpr, PAGE: tl.constexpr):
    """Rank rows in two pages at most: where one would begin if all lay as its head, and as its tail; the head's length.

    Looked up before a loop, so that the loop's loads wait for nothing.
    """
    head = tl.load(table + rank_row // PAGE, mask=is_rank, other=0).to(tl.int64) * PAGE + rank_row % PAGE
    border = PAGE - rank_row % PAGE
    last = tl.load(table + (rank_row + IN - 1) // PAGE, mask=is_rank, other=0).to(tl.int64)
    return head, last * PAGE - border, border


@triton.jit
def _many_rows(
    x,
    x_stride,
    is_row,
    pages,
    table,
    rank_row,
    is_rank,
    span,
    num_spans,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Consecutive spans of many rows' product, added in the order in which few rows' are."""
    k = tl.arange(0, SUB)
    t = tl.arange(0, ROWS)
    EVEN: tl.constexpr = IN % (SUBS * SUB) == 0
    TWO_PAGES: tl.constexpr = ROWWISE and IN <= PAGE
    if TWO_PAGES:
        head, tail, border = _two_pages(table, rank_row, is_rank, IN, PAGE)
    total = tl.zeros((ROWS, RANKS), tl.float32)
    part = tl.zeros((ROWS, RANKS), tl.float32)
    for sub in tl.range(span * SUBS, (span + num_spans) * SUBS, num_stages=4):
        start = sub * SUB
        mask_a = is_rank[:, None]
        mask_x = is_row[:, None]
        if not EVEN:
            mask_a = mask_a & (start + k < IN)[None, :]
            mask_x = mask_x & (start + k < IN)[None, :]
        if TWO_PAGES:
            base = tl.multiple_of(tl.where(start < border, head, tail) + start, 16)
            a = tl.load(pages + base[:, None] + k[None, :], mask=mask_a, other=0.0)
        elif ROWWISE:
            element = tl.multiple_of(rank_row + start, 16)
            there = is_rank & (start + tl.zeros_like(rank_row) < IN)
            base = tl.multiple_of(address_of(table, element, there, PAGE), 16)
            a = tl.load(pages + base[:, None] + k[None, :], mask=mask_a, other=0.0)
        else:
            there = is_rank[:, None] & (start + k < IN)[None, :]
            a = tl.load(
                pages + address_of(table, (rank_row + start)[:, None] + k[None, :], there, PAGE), mask=there, other=0.0
            )
        rows = tl.load(x + t[:, None] * x_stride + start + k[None, :], mask=mask_x, other=0.0)
        part += tl.dot(rows, tl.trans(a), input_precision=PRECISION)
        is_whole = sub % SUBS == SUBS - 1
        total = tl.where(is_whole, total + part, total)
        part = tl.where(is_whole, 0.0, part)
    return total


@triton.jit
def _settle(
    total,
    mask,
    bridge,
    partials,
    span,
    counter,
    span_stride,
    SPANS: tl.constexpr,
):
    """Stores a span's sums; whoever stores the last span adds them all, first to last, to the bridge."""
    if SPANS == 1:
        tl.store(bridge, total.to(bridge.dtype.element_ty), mask=mask)
    else:
        tl.store(partials + span * span_stride, total, mask=mask)
        tl.debug_barrier()
        num_ready = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        if num_ready == SPANS - 1:
            whole = tl.zeros_like(total)
            for step in range(SPANS):
                whole += tl.load(partials + step * span_stride, mask=mask, other=0.0, cache_modifier=".cg")
            tl.store(bridge, whole.to(bridge.dtype.element_ty), mask=mask)
            tl.store(counter, 0)
