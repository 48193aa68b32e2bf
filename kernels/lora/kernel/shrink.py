"""`bridge[t] = x[t] @ A.T`: every row's inputs down to its own adapter's ranks."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.plan import Plan
from kernels.lora.kernel.tiling import adapter_of, address_of, blocks_of, module_of


def shrink(
    x: Tensor, pages: Tensor, batch: LoraBatch, plan: Plan, layer: int, num_programs: int, **options: Any
) -> None:
    """Fills the bridge of the rows that have an adapter, for one group of modules in one layer."""
    num_spans = plan.partials.shape[1]
    _shrink[(num_programs,)](
        x,
        pages,
        batch.row_start,
        batch.slots,
        batch.directory.page_table,
        plan.starts[layer],
        plan.records[layer],
        plan.bridge,
        plan.partials,
        plan.counters,
        x.stride(0),
        batch.directory.page_table.shape[1],
        batch.slots.shape[0],
        MODULES=plan.bridge.shape[1],
        WIDTH=plan.bridge.shape[2],
        IN=x.shape[1],
        PAGE=pages.shape[1],
        SPANS=num_spans,
        ROWWISE=plan.tiling.is_rowwise,
        SPLIT=plan.tiling.is_split,
        HAS_MANY=plan.tiling.has_many,
        **plan.tiling.constants,
        **options,
    )


@triton.jit
def _shrink(
    x,
    pages,
    row_start,
    slots,
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
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    ROWWISE: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_MANY: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
    COMPILED: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    adapters = tl.arange(0, LIVE)
    few_starts = tl.load(starts + adapters)
    num_few = tl.load(starts + LIVE)
    for tile in tl.range(program, num_few, tl.num_programs(0)):
        live = adapter_of(few_starts, tile)
        local = tile - tl.load(starts + live)
        own = records + live * MODULES * 4
        first, second, num_blocks = blocks_of(own, MODULES, FEW_RANKS)
        span = local // num_blocks
        module, block = module_of(local % num_blocks, first, second, MODULES)
        row = tl.load(row_start + live)
        num_rows = tl.load(row_start + live + 1) - row
        table = page_table + tl.load(slots + live) * table_stride
        rank = tl.load(own + module * 4)
        place = tl.load(own + module * 4 + 1)
        total = _few_rows(
            x + row.to(tl.int64) * x_stride,
            x_stride,
            num_rows,
            pages,
            table,
            place,
            rank,
            block,
            span,
            IN,
            PAGE,
            SUB,
            SUBS,
            ROWWISE,
            FEW,
            FEW_RANKS,
            PRECISION,
        )  # [FEW_RANKS, FEW]
        t = tl.arange(0, FEW)[None, :]
        r = block * FEW_RANKS + tl.arange(0, FEW_RANKS)[:, None]
        _settle(
            total,
            t < num_rows,
            bridge + ((row + t).to(tl.int64) * MODULES + module) * WIDTH + r,
            partials + ((live * FEW + t).to(tl.int64) * SPANS * MODULES + module) * WIDTH + r,
            span,
            counters + (live * MODULES + module) * (WIDTH // FEW_RANKS) + block,
            MODULES * WIDTH,
            SPANS,
            True,
            COMPILED,
        )
    if HAS_MANY:
        many_starts = tl.load(starts + LIVE + 1 + adapters)
        num_many = tl.load(starts + 2 * LIVE + 1)
        # From the other end, so that programs with one tile fewer of the first kind take one more of this.
        for tile in range(tl.num_programs(0) - 1 - program, num_many, tl.num_programs(0)):
            live = adapter_of(many_starts, tile)
            local = tile - tl.load(starts + LIVE + 1 + live)
            own = records + live * MODULES * 4
            first, second, num_blocks = blocks_of(own, MODULES, RANKS)
            module, block = module_of(local % num_blocks, first, second, MODULES)
            local = local // num_blocks
            span = 0
            if SPLIT:
                span = local % SPANS
                local = local // SPANS
            first_row = tl.load(row_start + live)
            end = tl.load(row_start + live + 1)
            row = first_row + local * ROWS
            table = page_table + tl.load(slots + live) * table_stride
            rank = tl.load(own + module * 4)
            place = tl.load(own + module * 4 + 1)
            total = _many_rows(
                x + row.to(tl.int64) * x_stride,
                x_stride,
                end - row,
                pages,
                table,
                place,
                rank,
                block,
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
            t = tl.arange(0, ROWS)[:, None]
            r = block * RANKS + tl.arange(0, RANKS)[None, :]
            row_tile = first_row // ROWS + live + local
            _settle(
                total,
                t < end - row,
                bridge + ((row + t).to(tl.int64) * MODULES + module) * WIDTH + r,
                partials + ((num_live * FEW + row + t).to(tl.int64) * SPANS * MODULES + module) * WIDTH + r,
                span,
                counters
                + num_live * MODULES * (WIDTH // FEW_RANKS)
                + (row_tile * MODULES + module) * (WIDTH // RANKS)
                + block,
                MODULES * WIDTH,
                SPANS if SPLIT else 1,
                False,
                COMPILED,
            )


@triton.jit
def _few_rows(
    x,
    x_stride,
    num_rows,
    pages,
    table,
    place,
    rank,
    block,
    span,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    ROWWISE: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One span of a few rows' product: a sub-block for each warp, then the sum of these."""
    start = span * SUBS * SUB + tl.arange(0, SUBS) * SUB
    k = tl.arange(0, SUB)
    r = block * RANKS + tl.arange(0, RANKS)
    t = tl.arange(0, FEW)
    EVEN: tl.constexpr = IN % (SUBS * SUB) == 0
    at = start[:, None, None] + k[None, None, :]
    is_rank = (r < rank)[None, :, None]
    is_row = (t < num_rows)[None, :, None]
    if not EVEN:
        is_rank = is_rank & (at < IN)
        is_row = is_row & (at < IN)
    element = place + r[None, :] * IN + start[:, None]
    if ROWWISE:
        element = tl.multiple_of(element, [16, 16])
        mask = (r < rank)[None, :] & (start < IN)[:, None]
        base = tl.multiple_of(address_of(table, element, mask, PAGE), [16, 16])
        a = tl.load(pages + base[:, :, None] + k[None, None, :], mask=is_rank, other=0.0)
    else:
        each = element[:, :, None] + k[None, None, :]
        mask = (r < rank)[None, :, None] & (at < IN)
        a = tl.load(pages + address_of(table, each, mask, PAGE), mask=mask, other=0.0)
    rows = tl.load(x + t[None, :, None] * x_stride + at, mask=is_row, other=0.0)
    sums = tl.dot(a, tl.trans(rows, (0, 2, 1)), input_precision=PRECISION)  # [SUBS, RANKS, FEW]
    pairs = tl.trans(tl.reshape(sums, (2, 2, RANKS, FEW)), (2, 3, 1, 0))
    front, back = tl.split(pairs)
    first, second = tl.split(front)
    third, fourth = tl.split(back)
    return ((first + second) + third) + fourth


@triton.jit
def _many_rows(
    x,
    x_stride,
    num_rows,
    pages,
    table,
    place,
    rank,
    block,
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
    r = block * RANKS + tl.arange(0, RANKS)
    t = tl.arange(0, ROWS)
    EVEN: tl.constexpr = IN % (SUBS * SUB) == 0
    total = tl.zeros((ROWS, RANKS), tl.float32)
    part = tl.zeros((ROWS, RANKS), tl.float32)
    for sub in tl.range(span * SUBS, (span + num_spans) * SUBS):
        start = sub * SUB
        is_rank = (r < rank)[:, None]
        is_row = (t < num_rows)[:, None]
        if not EVEN:
            is_rank = is_rank & (start + k < IN)[None, :]
            is_row = is_row & (start + k < IN)[None, :]
        element = place + r * IN + start
        if ROWWISE:
            element = tl.multiple_of(element, 16)
            base = tl.multiple_of(address_of(table, element, (r < rank) & (start + tl.zeros_like(r) < IN), PAGE), 16)
            a = tl.load(pages + base[:, None] + k[None, :], mask=is_rank, other=0.0)
        else:
            each = element[:, None] + k[None, :]
            a = tl.load(pages + address_of(table, each, is_rank, PAGE), mask=is_rank, other=0.0)
        rows = tl.load(x + t[:, None] * x_stride + start + k[None, :], mask=is_row, other=0.0)
        part += tl.dot(rows, tl.trans(a), input_precision=PRECISION)
        is_whole = sub % SUBS == SUBS - 1
        total = tl.where(is_whole, total + part, total)
        part = tl.where(is_whole, 0.0, part)
    return total


@triton.jit
def _settle(
    total,
    is_row,
    bridge,
    partials,
    span,
    counter,
    span_stride,
    SPANS: tl.constexpr,
    UNROLLED: tl.constexpr,
    COMPILED: tl.constexpr,
):
    """Stores a span's sums; whoever stores the last span adds them all, first to last, to the bridge."""
    mask = is_row & (tl.zeros_like(total) == 0.0)
    if SPANS == 1:
        tl.store(bridge, total.to(bridge.dtype.element_ty), mask=mask)
    else:
        tl.store(partials + span * span_stride, total, mask=mask)
        if COMPILED:
            tl.inline_asm_elementwise("bar.sync 0; // dummy $0", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
        num_ready = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")
        if num_ready == SPANS - 1:
            whole = tl.zeros_like(total)
            if UNROLLED:
                for step in tl.static_range(SPANS):
                    whole += tl.load(partials + step * span_stride, mask=mask, other=0.0, cache_modifier=".cg")
            else:
                for step in range(SPANS):
                    whole += tl.load(partials + step * span_stride, mask=mask, other=0.0, cache_modifier=".cg")
            tl.store(bridge, whole.to(bridge.dtype.element_ty), mask=mask)
            tl.store(counter, 0)
