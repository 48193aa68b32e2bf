"""`outputs[m][t] += scale * bridge[t, m] @ B[m]`: every row's ranks up to its outputs.

A program keeps some rows of an adapter, up to `FEW_ROWS` (MBGMV) or `MANY_ROWS` (MBGMM), and reads ahead the runs of
columns of its matrix and outputs that it adds to one after the other. In a large batch whose adapters of many rows are
not the linear layer's it keeps a run of columns of the matrix, and reads ahead tiles of rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chain import resident
from kernels.launch import launch
from kernels.lora.checks import check_delta
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import is_by_row
from kernels.lora.kernel.expand_in_turn import add_in_turn
from kernels.lora.kernel.expand_many import many_rows
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import (
    EXPAND_COLUMNS,
    EXPAND_RUNS,
    FEW_ROWS,
    LARGE_ROWS,
    MANY_ROWS,
    adapter_of,
    cost_of,
    num_pages_of,
    precision_of,
    room_of,
    shares_of,
)

STAGES = 3  # tiles of runs of columns that a program has in work or on their way


def expand(delta: LoraDelta, *, unless_by_row: bool = False) -> None:
    """As `kernels.lora.expand`; if `unless_by_row`, but for the rows that have owners in the plan."""
    plan, pages, page_table = delta.plan, delta.pages, delta.batch.directory.page_table
    three = [*delta.outputs, delta.outputs[0], delta.outputs[0]][:3]
    chunk, few_columns = delta.batch.directory.chunk_elements, plan.tiling.few_columns
    num_programs, options = _options(pages.device, has_few=plan.tiling.has_few, ranks=plan.tiling.expand_ranks)
    launch(
        _expand,
        (num_programs,),
        *three,
        pages,
        page_table,
        plan.starts[delta.layer],
        plan.records[delta.layer],
        plan.bridge,
        plan.is_by_row,
        *[output.stride(0) for output in three],
        page_table.shape[1],
        MODULES=len(delta.outputs),
        PRECISION=precision_of(pages.dtype),
        PIECES=plan.bridge.shape[1],
        WIDTH=plan.bridge.shape[2],
        OUT0=three[0].shape[1],
        OUT1=three[1].shape[1],
        OUT2=three[2].shape[1],
        PAGE=pages.shape[1],
        RECORD=RECORD,
        HAS_FEW=plan.tiling.has_few,
        LARGE_ROWS=LARGE_ROWS,
        RANKS=plan.tiling.expand_ranks,
        HAS_LATER=delta.batch.directory.max_rank > plan.tiling.expand_ranks,
        FEW=FEW_ROWS,
        FEW_COLUMNS=few_columns,
        FEW_ROWWISE=chunk % few_columns == 0,
        RUNS=EXPAND_RUNS,
        STAGES=STAGES,
        COLUMNS=EXPAND_COLUMNS,
        ROWWISE=chunk % plan.tiling.expand_run == 0,
        UNLESS_BY_ROW=unless_by_row,
        HAS_MANY=plan.tiling.has_many,
        LIVE=plan.tiling.live,
        **options,
    )


def expand_unless_by_row(
    delta: LoraDelta | None, whole: Tensor, widths: Sequence[int], *, has_registers: bool = True
) -> LoraDelta | None:
    """What an op that reads `whole`, cut in `widths`, is to add by row on its way; any other delta is expanded here.

    `has_registers` is whether a program of the op could hold what it needs for that.

    Raises:
        ValueError: The delta is not for `whole`.
    """
    if delta is None:
        return None
    check_delta(delta, whole, widths)
    if not (has_registers and is_by_row(delta)):
        expand(delta)
        return None
    if not delta.batch.is_decode and delta.plan.tiling.has_many:
        expand(delta, unless_by_row=True)
    return delta


def _options(device: torch.device, *, has_few: bool, ranks: int) -> tuple[int, dict[str, Any]]:
    """How many programs are launched, and how: with how many rows at a time, too."""
    each, rows, registers = (2, MANY_ROWS, 232) if has_few else (3, 32, 168) if ranks <= 32 else (4, 16, 128)
    num_programs, options = resident(device, each, registers=registers)
    return num_programs, {"ROWS": rows, **options}


@triton.jit(do_not_specialize=["table_stride"])
def _expand(
    output0,
    output1,
    output2,
    pages,
    page_table,
    starts,
    records,
    bridge,
    is_by_row,
    stride0,
    stride1,
    stride2,
    table_stride,
    MODULES: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
    PAGE: tl.constexpr,
    RECORD: tl.constexpr,
    HAS_FEW: tl.constexpr,
    ROWS: tl.constexpr,
    LARGE_ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    HAS_LATER: tl.constexpr,
    FEW: tl.constexpr,
    FEW_COLUMNS: tl.constexpr,
    FEW_ROWWISE: tl.constexpr,
    RUNS: tl.constexpr,
    STAGES: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    UNLESS_BY_ROW: tl.constexpr,
    HAS_MANY: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    step = tl.num_programs(0)
    adapters = tl.arange(0, LIVE)
    few = starts + 2 * (LIVE + 1)
    many = starts + 3 * (LIVE + 1)
    many_starts = tl.load(many + adapters)
    num_many = tl.load(many + LIVE)
    if HAS_FEW:
        few_starts = tl.load(few + adapters)
        few_costs = tl.load(few + LIVE)
        if UNLESS_BY_ROW:
            few_costs = tl.where(tl.load(is_by_row) != 0, 0, few_costs)
        place, end, first, last = shares_of(program, step, few_costs, num_many, cost_of(RANKS, True))
        _in_turn(
            place, end, output0, output1, output2, pages, page_table, few, few_starts, records, bridge, stride0,
            stride1, stride2, table_stride, MODULES, PIECES, WIDTH, OUT0, OUT1, OUT2, PAGE, RECORD, FEW, FEW_COLUMNS,
            RUNS, FEW_ROWWISE, RANKS, True, HAS_LATER, STAGES, PRECISION, CHAINED,
        )  # fmt: skip
        if HAS_MANY:
            # Of few tiles alone neighbours do one each: those who have none are far from them.
            if (few_costs == 0) & (num_many <= step):
                first, last = program, tl.minimum(program + 1, num_many)
            _in_turn(
                first, last, output0, output1, output2, pages, page_table, many, many_starts, records, bridge, stride0,
                stride1, stride2, table_stride, MODULES, PIECES, WIDTH, OUT0, OUT1, OUT2, PAGE, RECORD, ROWS,
                COLUMNS // RUNS, RUNS, ROWWISE, RANKS, False, HAS_LATER, STAGES, PRECISION, CHAINED,
            )  # fmt: skip
        if CHAINED:
            tl.extra.cuda.gdc_wait()  # also who has no tile, so that this kernel ends after the one before
    else:
        if CHAINED:
            tl.extra.cuda.gdc_wait()
        for tile in tl.range(program, num_many, step, num_stages=1):
            output, stride, width, scale, parts, row, num_rows, table, matrix, rank, column, _, _, _ = _tile_of(
                tile, output0, output1, output2, page_table, many, many_starts, records, bridge, stride0, stride1,
                stride2, table_stride, MODULES, OUT0, OUT1, OUT2, RECORD, LARGE_ROWS, COLUMNS, False,
            )  # fmt: skip
            many_rows(
                output, stride, width, scale, parts, row, num_rows, pages, table, matrix, rank, column * COLUMNS,
                PIECES, WIDTH, PAGE, COLUMNS, ROWWISE, ROWS, LARGE_ROWS, RANKS, HAS_LATER, PRECISION,
            )  # fmt: skip


@triton.jit
def _in_turn(
    place,
    end,
    output0,
    output1,
    output2,
    pages,
    page_table,
    starts,
    own_starts,
    records,
    bridge,
    stride0,
    stride1,
    stride2,
    table_stride,
    MODULES: tl.constexpr,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
    PAGE: tl.constexpr,
    RECORD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RUNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    RANKS: tl.constexpr,
    BY_RANK: tl.constexpr,
    HAS_LATER: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """What is from `place` to `end` in the sum of costs: neighbouring tiles, mostly of the same rows and matrix."""
    NUM_PAGES: tl.constexpr = num_pages_of(max(OUT0, OUT1, OUT2), PAGE)
    while place < end:
        output, stride, width, scale, parts, row, num_rows, table, matrix, rank, column, left, begin, cost = _tile_of(
            place, output0, output1, output2, page_table, starts, own_starts, records, bridge, stride0, stride1,
            stride2, table_stride, MODULES, OUT0, OUT1, OUT2, RECORD, ROWS, RUNS * COLUMNS, BY_RANK,
        )  # fmt: skip
        count = tl.minimum((end - begin) // cost, left)
        if count > 0:
            add_in_turn(
                output, stride, width, scale, parts, row, num_rows, pages, table, matrix, rank, column, count, PIECES,
                WIDTH, PAGE, NUM_PAGES, COLUMNS, RUNS, ROWWISE, ROWS, RANKS,
                BY_RANK, HAS_LATER, STAGES, PRECISION, CHAINED,
            )  # fmt: skip
        place = tl.where(count < left, end, begin + count * cost)  # the next tile of the module ends in another share


@triton.jit
def _tile_of(
    place,
    output0,
    output1,
    output2,
    page_table,
    starts,
    own_starts,
    records,
    bridge,
    stride0,
    stride1,
    stride2,
    table_stride,
    MODULES: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
    RECORD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BY_RANK: tl.constexpr,
):
    """What a tile of `ROWS` times `COLUMNS` is of: the tile that has a place in the sum of all tiles' costs.

    Returns the outputs of its module, their stride, width and scale; where the module begins in the bridge; its first
    row, and how many there are from there on; the adapter's pages, and the place and rank of its matrix; which of the
    module's tiles of columns it is, and how many there are from there on; and where it begins among the costs, and its
    own.
    """
    live = adapter_of(own_starts, place)
    record = records + live * RECORD
    table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
    local = place - tl.load(starts + live)
    rank0, cost0, all0 = _costs_of(record + 4, OUT0, COLUMNS, BY_RANK)
    module, first, before, rank, cost, own_costs, all_costs = 0, 0, 0, rank0, cost0, all0, all0
    if MODULES > 1:
        rank1, cost1, all1 = _costs_of(record + 8, OUT1, COLUMNS, BY_RANK)
        all_costs += all1
    if MODULES > 2:
        rank2, cost2, all2 = _costs_of(record + 12, OUT2, COLUMNS, BY_RANK)
        all_costs += all2
    skipped = local // all_costs * ROWS
    local = local % all_costs
    if MODULES > 1:
        is_later = local >= all0
        module = is_later.to(tl.int32)
        rank, cost = tl.where(is_later, rank1, rank), tl.where(is_later, cost1, cost)
        own_costs = tl.where(is_later, all1, own_costs)
        before, first = tl.where(is_later, all0, 0), tl.where(is_later, room_of(rank0), 0)
    if MODULES > 2:
        is_last = local >= all0 + all1
        module = tl.where(is_last, 2, module)
        rank, cost = tl.where(is_last, rank2, rank), tl.where(is_last, cost2, cost)
        own_costs = tl.where(is_last, all2, own_costs)
        before = tl.where(is_last, all0 + all1, before)
        first = tl.where(is_last, room_of(rank0) + room_of(rank1), first)
    column = (local - before) // cost
    own = record + 4 + module * 4
    return (
        _of_module(module, output0, output1, output2, MODULES),
        _of_module(module, stride0, stride1, stride2, MODULES),
        _of_module(module, OUT0, OUT1, OUT2, MODULES),
        tl.load(own + 3).to(tl.float32, bitcast=True),
        bridge + first,
        tl.load(record) + skipped,
        tl.load(record + 1) - skipped,
        table,
        tl.load(own + 2),
        rank,
        column,
        own_costs // cost - column,
        place - (local - before) % cost,
        cost,
    )


@triton.jit
def _costs_of(own, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BY_RANK: tl.constexpr):
    """The rank of a module's matrix, and the costs of one of its tiles and of all in a row."""
    rank = tl.load(own)
    cost = cost_of(rank, BY_RANK)
    return rank, cost, tl.where(rank > 0, (WIDTH + COLUMNS - 1) // COLUMNS * cost, 0)


@triton.jit
def _of_module(module, first, second, third, MODULES: tl.constexpr):
    """What belongs to a module."""
    chosen = first
    if MODULES > 1:
        chosen = tl.where(module == 1, second, chosen)
    if MODULES > 2:
        chosen = tl.where(module == 2, third, chosen)
    return chosen
