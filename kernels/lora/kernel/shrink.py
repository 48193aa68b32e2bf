"""`bridge[t] = x[t] @ A.T`: every row's inputs down to its own adapter's ranks.

The A matrices of a group are taken as one, so that a row's inputs are read once for all modules.
"""

from typing import Any

import triton
import triton.language as tl

from kernels.launch import launch
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.shrink_few import neighbours, one_tile
from kernels.lora.kernel.shrink_many import many_tiles
from kernels.lora.kernel.tiling import (
    FEW_RANKS,
    FEW_ROWS,
    MANY_RANKS,
    SPANS,
    precision_of,
    shares_of,
)

STAGES = 3  # rounds of MBGMV that a program has in work or on their way
# Tiles of MBGMV that take as long as one of MBGMM, in split batches and in larger (measured on an H200).
MANY_COST, LARGE_COST = 6, 4


def shrink(delta: LoraDelta, num_programs: int, **options: Any) -> None:
    """Fills the bridge of the rows that have an adapter, for one group of modules in one layer."""
    x, pages, layer, plan = delta.x, delta.pages, delta.layer, delta.plan
    page_table = delta.batch.directory.page_table
    launch(
        _shrink,
        (num_programs,),
        x,
        pages,
        page_table,
        plan.starts[layer],
        plan.records[layer],
        plan.bridge,
        x.stride(0),
        page_table.shape[1],
        MODULES=len(delta.modules),
        PRECISION=precision_of(x.dtype),
        WIDTH=plan.bridge.shape[2],
        IN=x.shape[1],
        PAGE=pages.shape[1],
        PIECES=plan.bridge.shape[1],
        ROUNDS=plan.tiling.num_rounds(x.shape[1]),
        RECORD=RECORD,
        ROWWISE=plan.tiling.is_rowwise,
        SPLIT=plan.tiling.is_split,
        HAS_FEW=plan.tiling.has_few,
        HAS_MANY=x.shape[0] > plan.tiling.shrink_few,
        SPAN=plan.tiling.span,
        SPANS=SPANS,
        FEW=FEW_ROWS,
        FEW_RANKS=FEW_RANKS,
        ROWS=plan.tiling.shrink_rows,
        RANKS=MANY_RANKS,
        LIVE=plan.tiling.live,
        STAGES=STAGES,
        MANY_STAGES=3 if plan.tiling.is_split else 4,
        STEPS=plan.tiling.shrink_steps,
        MANY_COST=MANY_COST if plan.tiling.is_split else LARGE_COST,
        ON_GPU=x.is_cuda,
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
    ROUNDS: tl.constexpr,
    RECORD: tl.constexpr,
    ROWWISE: tl.constexpr,
    SPLIT: tl.constexpr,
    HAS_FEW: tl.constexpr,
    HAS_MANY: tl.constexpr,
    SPAN: tl.constexpr,
    SPANS: tl.constexpr,
    FEW: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    LIVE: tl.constexpr,
    STAGES: tl.constexpr,
    MANY_STAGES: tl.constexpr,
    STEPS: tl.constexpr,
    MANY_COST: tl.constexpr,
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
    is_one_each = SPLIT & (num_few + num_many <= step)
    first, end, first_many, end_many = shares_of(program, step, num_few, num_many, MANY_COST)
    if is_one_each:
        first, end = program, tl.minimum(program + 1, num_few)
        first_many, end_many = step - 1 - program, tl.minimum(step - program, num_many)
    many_step = 1
    if not SPLIT and num_few == 0:  # programs that run at a time have neighbours, which share rows
        first_many, end_many, many_step = program, num_many, step
    # Who has nothing to do makes room for the next kernel. One stays, so that this kernel ends after the one before.
    if (program == 0) | (first < end) | (first_many < end_many):
        if HAS_FEW and first < end:
            if is_one_each:
                one_tile(
                    first, x, pages, page_table, starts, few_starts, records, bridge, x_stride, table_stride, MODULES,
                    WIDTH, IN, PAGE, PIECES, ROUNDS, RECORD, ROWWISE, SPAN, SPANS, FEW, FEW_RANKS, STAGES, PRECISION,
                    CHAINED,
                )  # fmt: skip
            else:
                neighbours(
                    first, end, x, pages, page_table, starts, few_starts, records, bridge, x_stride, table_stride,
                    MODULES, WIDTH, IN, PAGE, PIECES, ROUNDS, RECORD, ROWWISE, SPAN, SPANS, FEW, FEW_RANKS, STAGES,
                    PRECISION, CHAINED,
                )  # fmt: skip
        if CHAINED:
            tl.extra.cuda.gdc_wait()
        if HAS_MANY:
            many_tiles(
                first_many, end_many, many_step, x, pages, page_table, starts + LIVE + 1, records, bridge, x_stride,
                table_stride, MODULES, WIDTH, IN, PAGE, PIECES, ROUNDS, RECORD, ROWWISE, SPLIT, SPAN, SPANS, ROWS,
                RANKS, LIVE, MANY_STAGES, STEPS, PRECISION, ON_GPU,
            )  # fmt: skip
