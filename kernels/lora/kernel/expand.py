"""`outputs[m][t] += scale * bridge[t, m] @ B[m]`: every row's ranks up to its outputs.

An adapter of few rows (MBGMV) is read once by tiles of a few runs of columns, one of many (MBGMM) by tiles of one run,
which take tiles of rows one after the other, each read while the one before is added to.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chain import chained
from kernels.lora.checks import check_delta
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import is_by_row, part_of
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import (
    EXPAND_COLUMNS,
    EXPAND_RUNS,
    EXPAND_STEPS,
    FEW_RANKS,
    FEW_ROWS,
    MANY_ROWS,
    adapter_of,
    page_of,
    precision_of,
)


def expand(delta: LoraDelta) -> None:
    """As `kernels.lora.expand`."""
    plan, pages, page_table = delta.plan, delta.pages, delta.batch.directory.page_table
    three = [*delta.outputs, delta.outputs[0], delta.outputs[0]][:3]
    num_programs, options = _options(pages.device)
    _expand[(num_programs,)](
        *three,
        pages,
        page_table,
        plan.starts[delta.layer],
        plan.records[delta.layer],
        plan.bridge,
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
        ROWS=MANY_ROWS,
        STEPS=EXPAND_STEPS,
        RANKS=plan.tiling.expand_ranks,
        FEW=FEW_ROWS,
        FEW_RANKS=FEW_RANKS,
        COLUMNS=EXPAND_COLUMNS,
        RUNS=EXPAND_RUNS,
        ROWWISE=delta.batch.directory.chunk_elements % EXPAND_COLUMNS == 0,
        HAS_FEW=plan.tiling.is_split,
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
    if has_registers and is_by_row(delta):
        return delta
    expand(delta)
    return None


@cache
def _options(device: torch.device) -> tuple[int, dict[str, Any]]:
    """As many programs as the device holds at a time, and how they are launched."""
    if device.type == "cpu":  # Triton's interpreter
        return 2, chained(device)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return 3 * processors, {"maxnreg": 168, **chained(device)}


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
    STEPS: tl.constexpr,
    RANKS: tl.constexpr,
    FEW: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    RUNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    HAS_FEW: tl.constexpr,
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
    few_starts = tl.load(few + adapters)
    many_starts = tl.load(many + adapters)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    if HAS_FEW:
        for tile in tl.range(program, tl.load(few + LIVE), step, num_stages=1):
            live = adapter_of(few_starts, tile)
            record = records + live * RECORD
            local = tile - tl.load(few + live)
            row = tl.load(record)
            table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
            module, column, first = _place_of(record, local, MODULES, RUNS * COLUMNS, OUT0, OUT1)
            own = record + 4 + module * 4
            output = _of_module(module, output0, output1, output2, MODULES)
            stride = _of_module(module, stride0, stride1, stride2, MODULES)
            width = _of_module(module, OUT0, OUT1, OUT2, MODULES)
            start = (column * RUNS + tl.arange(0, RUNS)) * COLUMNS
            n = start[:, None] + tl.arange(0, COLUMNS)[None, :]
            t = tl.arange(0, FEW)
            is_row = t < tl.load(record + 1)
            at = output + (row + t)[None, None, :].to(tl.int64) * stride + n[:, :, None]
            mask = is_row[None, None, :] & (n < width)[:, :, None]
            old = tl.load(at, mask=mask, other=0.0)
            share = _few_share(
                bridge + row.to(tl.int64) * (PIECES * WIDTH) + first,
                is_row,
                pages,
                table,
                tl.load(own + 2),
                tl.load(own),
                start,
                width,
                PIECES,
                WIDTH,
                PAGE,
                COLUMNS,
                RUNS,
                ROWWISE,
                FEW,
                FEW_RANKS,
                PRECISION,
            )
            scale = tl.load(own + 3).to(tl.float32, bitcast=True)
            new = tl.fma(share, tl.full(share.shape, scale, tl.float32), old.to(tl.float32))
            tl.store(at, new.to(output0.dtype.element_ty), mask=mask)
    if HAS_MANY:
        # From the other end, so that programs with one tile fewer of the first kind take one more of this.
        for tile in tl.range(step - 1 - program, tl.load(many + LIVE), step, num_stages=1):
            live = adapter_of(many_starts, tile)
            record = records + live * RECORD
            local = tile - tl.load(many + live)
            num_columns = _num_columns(record, MODULES, COLUMNS, OUT0, OUT1, OUT2)
            skipped = local // num_columns * (STEPS * ROWS)
            table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
            module, column, first = _place_of(record, local % num_columns, MODULES, COLUMNS, OUT0, OUT1)
            own = record + 4 + module * 4
            _many_rows(
                _of_module(module, output0, output1, output2, MODULES),
                _of_module(module, stride0, stride1, stride2, MODULES),
                _of_module(module, OUT0, OUT1, OUT2, MODULES),
                tl.load(own + 3).to(tl.float32, bitcast=True),
                bridge + first,
                tl.load(record) + skipped,
                tl.load(record + 1) - skipped,
                pages,
                table,
                tl.load(own + 2),
                tl.load(own),
                column * COLUMNS,
                PIECES,
                WIDTH,
                PAGE,
                COLUMNS,
                ROWWISE,
                ROWS,
                STEPS,
                RANKS,
                PRECISION,
            )


@triton.jit
def _of_module(module, first, second, third, MODULES: tl.constexpr):
    """What belongs to a module."""
    chosen = first
    if MODULES > 1:
        chosen = tl.where(module == 1, second, chosen)
    if MODULES > 2:
        chosen = tl.where(module == 2, third, chosen)
    return chosen


@triton.jit
def _num_columns(
    record,
    MODULES: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
):
    """Tiles of `COLUMNS` outputs that an adapter adds to."""
    number = tl.where(tl.load(record + 4) > 0, (OUT0 + COLUMNS - 1) // COLUMNS, 0)
    if MODULES > 1:
        number += tl.where(tl.load(record + 8) > 0, (OUT1 + COLUMNS - 1) // COLUMNS, 0)
    if MODULES > 2:
        number += tl.where(tl.load(record + 12) > 0, (OUT2 + COLUMNS - 1) // COLUMNS, 0)
    return number


@triton.jit
def _place_of(record, local, MODULES: tl.constexpr, COLUMNS: tl.constexpr, OUT0: tl.constexpr, OUT1: tl.constexpr):
    """An adapter's tile of outputs: its module, its place there, and where the module begins in the bridge."""
    rank0 = tl.load(record + 4)
    module = 0
    column = local
    first = 0
    if MODULES > 1:
        rank1 = tl.load(record + 8)
        before = tl.where(rank0 > 0, (OUT0 + COLUMNS - 1) // COLUMNS, 0)
        is_later = local >= before
        module = is_later.to(tl.int32)
        column = tl.where(is_later, local - before, column)
        first = tl.where(is_later, rank0, 0)
        if MODULES > 2:
            before += tl.where(rank1 > 0, (OUT1 + COLUMNS - 1) // COLUMNS, 0)
            is_last = local >= before
            module = tl.where(is_last, 2, module)
            column = tl.where(is_last, local - before, column)
            first = tl.where(is_last, rank0 + rank1, first)
    return module, column, first


@triton.jit
def _few_share(
    bridge,
    is_row,
    pages,
    table,
    place,
    rank,
    start,
    width,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    RUNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What a few rows of the bridge give through `RUNS` runs of columns, one for each warp, `[RUNS, COLUMNS, FEW]`."""
    n = tl.arange(0, COLUMNS)
    t = tl.arange(0, FEW)
    share = tl.zeros((RUNS, COLUMNS, FEW), tl.float32)
    for block in tl.range(0, rank, RANKS, num_stages=1):
        r = block + tl.arange(0, RANKS)
        element = place + r[None, :] * width + start[:, None]
        begins = (r < rank)[None, :] & (start < width)[:, None]
        if ROWWISE:
            base = tl.multiple_of(page_of(table, element, begins, PAGE) + element % PAGE, [16, 16])
            b = tl.load(pages + base[:, :, None] + n[None, None, :], mask=begins[:, :, None], other=0.0)
        else:
            there = begins[:, :, None] & (start[:, None] + n[None, :] < width)[:, None, :]
            each = element[:, :, None] + n[None, None, :]
            b = tl.load(pages + page_of(table, each, there, PAGE) + each % PAGE, mask=there, other=0.0)
        at = bridge + t[None, :] * (PIECES * WIDTH) + r[:, None]
        part = part_of(at, is_row[None, :] & (r < rank)[:, None], pages.dtype.element_ty, PIECES, WIDTH)
        parts = tl.broadcast_to(part[None, :, :], (RUNS, RANKS, FEW))
        share = tl.dot(tl.trans(b, (0, 2, 1)), parts, share, input_precision=PRECISION)
    return share


@triton.jit
def _many_rows(
    output,
    stride,
    width,
    scale,
    bridge,
    row,
    num_rows,
    pages,
    table,
    place,
    rank,
    start,
    PIECES: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds to a sub-block of columns of many rows, `STEPS` tiles, each read while the one before is added to."""
    t = tl.arange(0, ROWS)
    n = start + tl.arange(0, COLUMNS)
    r = tl.arange(0, RANKS)
    dtype = pages.dtype.element_ty
    end = tl.minimum(STEPS * ROWS, num_rows)
    is_column = (n < width)[None, :]
    is_part = (r < rank)[None, :]
    b = _b_of(pages, table, place, rank, r, start, width, PAGE, COLUMNS, ROWWISE)
    parts = bridge + (row + t).to(tl.int64)[:, None] * (PIECES * WIDTH) + r[None, :]
    outs = output + (row + t).to(tl.int64)[:, None] * stride + n[None, :]
    part = part_of(parts, (t < num_rows)[:, None] & is_part, dtype, PIECES, WIDTH)
    old = tl.load(outs, mask=(t < num_rows)[:, None] & is_column, other=0.0)
    for step in tl.range(0, end, ROWS, num_stages=1):
        is_next = (step + ROWS + t < end)[:, None]
        next_parts = parts + ROWS * (PIECES * WIDTH)
        next_part = part_of(next_parts, is_next & is_part, dtype, PIECES, WIDTH)
        next_outs = outs + ROWS * stride
        next_old = tl.load(next_outs, mask=is_next & is_column, other=0.0)
        is_row = (step + t < num_rows)[:, None]
        share = tl.dot(part, b, input_precision=PRECISION)
        for block in tl.range(RANKS, rank, RANKS, num_stages=1):
            later = block + r
            more_b = _b_of(pages, table, place, rank, later, start, width, PAGE, COLUMNS, ROWWISE)
            more = part_of(parts + block, is_row & (later < rank)[None, :], dtype, PIECES, WIDTH)
            share = tl.dot(more, more_b, share, input_precision=PRECISION)
        new = tl.fma(share, tl.full(share.shape, scale, tl.float32), old.to(tl.float32))
        tl.store(outs, new.to(output.dtype.element_ty), mask=is_row & is_column)
        part = next_part
        old = next_old
        parts = next_parts
        outs = next_outs


@triton.jit
def _b_of(pages, table, place, rank, r, start, width, PAGE: tl.constexpr, COLUMNS: tl.constexpr, ROWWISE: tl.constexpr):
    """Rows of transposed B in a sub-block of columns, `[ranks, COLUMNS]`."""
    n = tl.arange(0, COLUMNS)
    mask = (r < rank)[:, None] & (start + n < width)[None, :]
    element = place + r * width + start
    if ROWWISE:
        base = tl.multiple_of(page_of(table, element, r < rank, PAGE) + element % PAGE, 16)
        at = base[:, None] + n[None, :]
    else:
        each = element[:, None] + n[None, :]
        at = page_of(table, each, mask, PAGE) + each % PAGE
    return tl.load(pages + at, mask=mask, other=0.0)
