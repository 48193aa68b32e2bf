"""`bridge[t] = x[t] @ A.T`: every row's inputs down to its own adapter's ranks.

The A matrices of a group are taken as one, `[sum of ranks, in]`, so that a row's inputs are read once for all modules.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.plan import RECORD, Plan
from kernels.lora.kernel.tiling import (
    FEW_RANKS,
    FEW_ROWS,
    MANY_RANKS,
    MANY_ROWS,
    SPANS,
    adapter_of,
    page_of,
    precision_of,
)


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
        x.stride(0),
        page_table.shape[1],
        MODULES=num_modules,
        PRECISION=precision_of(x.dtype),
        WIDTH=plan.bridge.shape[2],
        IN=x.shape[1],
        PAGE=pages.shape[1],
        PIECES=plan.bridge.shape[1],
        RECORD=RECORD,
        ROWWISE=plan.tiling.is_rowwise,
        SPLIT=plan.tiling.is_split,
        HAS_MANY=plan.tiling.has_many,
        SPAN=plan.tiling.span,
        SPANS=SPANS,
        FEW=FEW_ROWS,
        FEW_RANKS=FEW_RANKS,
        ROWS=MANY_ROWS,
        RANKS=MANY_RANKS,
        LIVE=plan.tiling.live,
        **options,
    )


@triton.jit(do_not_specialize=["table_stride"])
def _shrink(
    x,
    pages,
    page_table,
    starts,
    records,
    bridge,
    x_stride,
    table_stride,
    MODULES: tl.constexpr,
    WIDTH: tl.constexpr,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    PIECES: tl.constexpr,
    RECORD: tl.constexpr,
    ROWWISE: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_MANY: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    FEW: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
    ON_GPU: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    step = tl.num_programs(0)
    adapters = tl.arange(0, LIVE)
    few_starts = tl.load(starts + adapters)
    num_few = tl.load(starts + LIVE)
    num_many = tl.load(starts + LIVE + 1 + LIVE)
    # Who has nothing to do makes room for the next kernel. One stays, so that this kernel ends after the one before.
    if (program == 0) | (program < num_few) | (step - 1 - program < num_many):
        if SPLIT:
            for tile in tl.range(program, num_few, step, num_stages=1):
                live = adapter_of(few_starts, tile)
                record = records + live * RECORD
                row = tl.load(record)
                num_rows = tl.load(record + 1)
                table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
                rank = tl.load(record + 3)
                local = tile - tl.load(starts + live)
                piece = local % PIECES
                start = (piece * SPANS + tl.arange(0, SPANS)) * SPAN
                r = local // PIECES * FEW_RANKS + tl.arange(0, FEW_RANKS)
                a = _a_of(pages, table, _rank_rows(record, r, MODULES, IN), start, r < rank, IN, PAGE, ROWWISE, SPAN)
                if CHAINED:  # no earlier kernel writes the matrices, but one may still write the inputs
                    tl.extra.cuda.gdc_wait()
                t = tl.arange(0, FEW)
                rows = _few_x(x, x_stride, row, num_rows, start, IN, ROWWISE, SPAN, FEW)
                products = tl.dot(a, tl.trans(rows, (0, 2, 1)), input_precision=PRECISION)  # [SPANS, RANKS, FEW]
                front, back = tl.split(tl.trans(tl.reshape(products, (2, 2, FEW_RANKS, FEW)), (2, 3, 1, 0)))
                first, second = tl.split(front)
                third, fourth = tl.split(back)
                at = bridge + ((row + t)[None, :].to(tl.int64) * PIECES + piece) * WIDTH + r[:, None]
                mask = (t < num_rows)[None, :] & (r < rank)[:, None]
                tl.store(at, ((first + second) + third) + fourth, mask=mask)
        if CHAINED:
            tl.extra.cuda.gdc_wait()
        if HAS_MANY:
            many_starts = tl.load(starts + LIVE + 1 + adapters)
            # From the other end, so that programs with one tile fewer of the first kind take one more of this.
            for tile in range(step - 1 - program, num_many, step):
                live = adapter_of(many_starts, tile)
                record = records + live * RECORD
                first_row = tl.load(record)
                num_rows = tl.load(record + 1)
                table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
                rank = tl.load(record + 3)
                num_blocks = (rank + RANKS - 1) // RANKS
                local = tile - tl.load(starts + LIVE + 1 + live)
                block = local % num_blocks
                piece = local // num_blocks % PIECES
                t = local // num_blocks // PIECES * ROWS + tl.arange(0, ROWS)
                r = block * RANKS + tl.arange(0, RANKS)
                total = _many_rows(
                    x + (first_row + t)[:, None].to(tl.int64) * x_stride,
                    t < num_rows,
                    pages,
                    table,
                    _rank_rows(record, r, MODULES, IN),
                    r < rank,
                    piece * SPANS,
                    SPANS if PIECES > 1 else (IN + SPAN * SPANS - 1) // (SPAN * SPANS) * SPANS,
                    IN,
                    PAGE,
                    SPAN,
                    SPANS,
                    ROWWISE,
                    ROWS,
                    RANKS,
                    PRECISION,
                    ON_GPU,
                )  # [ROWS, RANKS]
                at = bridge + ((first_row + t)[:, None].to(tl.int64) * PIECES + piece) * WIDTH + r[None, :]
                tl.store(at, total, mask=(t < num_rows)[:, None] & (r < rank)[None, :])


@triton.jit
def _few_x(
    x, x_stride, row, num_rows, start, IN: tl.constexpr, ROWWISE: tl.constexpr, SPAN: tl.constexpr, FEW: tl.constexpr
):
    """Spans of few rows' inputs, `[SPANS, FEW, SPAN]`."""
    t = tl.arange(0, FEW)
    at = start[:, None, None] + tl.arange(0, SPAN)[None, None, :]
    mask = (t < num_rows)[None, :, None] & (start < IN)[:, None, None]
    if not ROWWISE:
        mask = mask & (at < IN)
    return tl.load(x + (row + t)[None, :, None].to(tl.int64) * x_stride + at, mask=mask, other=0.0)


@triton.jit
def _a_of(
    pages,
    table,
    rank_row,
    start,
    is_rank,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    ROWWISE: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Spans that begin at `start`, `[spans]`, of rank rows that begin at `rank_row` in the stream, `[ranks]`."""
    k = tl.arange(0, SPAN)
    element = start[:, None] + rank_row[None, :]  # [spans, ranks]
    if ROWWISE:
        # Whole spans are there or not: a mask that is one for all elements of a load leaves them one load.
        there = is_rank[None, :] & (start < IN)[:, None]
        if IN <= PAGE:
            # A rank row is in two pages at most, which are looked up once for all spans.
            head = page_of(table, rank_row, is_rank, PAGE) + rank_row % PAGE
            left = PAGE - rank_row % PAGE
            tail = page_of(table, rank_row + IN - 1, is_rank, PAGE) - left
            base = tl.where(start[:, None] < left[None, :], head[None, :], tail[None, :]) + start[:, None]
            base = tl.multiple_of(base, [16, 16])
        else:
            base = tl.multiple_of(page_of(table, element, there, PAGE) + element % PAGE, [16, 16])
        return tl.load(pages + base[:, :, None] + k[None, None, :], mask=there[:, :, None], other=0.0)
    there = is_rank[None, :, None] & (start[:, None, None] + k[None, None, :] < IN)
    each = element[:, :, None] + k[None, None, :]
    return tl.load(pages + page_of(table, each, there, PAGE) + each % PAGE, mask=there, other=0.0)


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
def _many_rows(
    x,
    is_row,
    pages,
    table,
    rank_row,
    is_rank,
    first_span,
    num_spans,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
    ON_GPU: tl.constexpr,
):
    """Consecutive pieces of many rows' product, added in the order in which few rows' are."""
    k = tl.arange(0, SPAN)
    total = tl.zeros((ROWS, RANKS), tl.float32)
    part = tl.zeros((ROWS, RANKS), tl.float32)
    for span in tl.range(first_span, first_span + num_spans, num_stages=2):
        start = span * SPAN + tl.zeros((1,), tl.int32)
        a = _a_of(pages, table, rank_row, start, is_rank, IN, PAGE, ROWWISE, SPAN)
        is_x = is_row[:, None] & (span * SPAN < IN)
        if not ROWWISE:
            is_x = is_x & (span * SPAN + k < IN)[None, :]
        rows = tl.load(x + (span * SPAN + k)[None, :], mask=is_x, other=0.0)
        product = tl.dot(rows, tl.trans(tl.reshape(a, (RANKS, SPAN))), input_precision=PRECISION)
        if ON_GPU:
            # Or the compiler would continue the last span's chain in this one.
            product = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [product], tl.float32, is_pure=True, pack=1)
        part += product
        is_whole = span % SPANS == SPANS - 1
        total = tl.where(is_whole, total + part, total)
        part = tl.where(is_whole, 0.0, part)
    return total
