"""`outputs[m][t] += scale * bridge[t, m] @ B[m]`: every row's ranks up to its outputs."""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.plan import Plan
from kernels.lora.kernel.tiling import adapter_of, address_of, module_of


def expand(
    outputs: Sequence[Tensor],
    pages: Tensor,
    batch: LoraBatch,
    plan: Plan,
    layer: int,
    num_programs: int,
    **options: Any,
) -> None:
    """Adds the adapters' share to the rows that have one, for one group of modules in one layer."""
    three = [*outputs, outputs[0], outputs[0]][:3]
    _expand[(num_programs,)](
        *three,
        pages,
        batch.row_start,
        batch.slots,
        batch.directory.page_table,
        plan.starts[layer],
        plan.records[layer],
        plan.bridge,
        *[output.stride(0) for output in three],
        batch.directory.page_table.shape[1],
        MODULES=len(outputs),
        WIDTH=plan.bridge.shape[2],
        OUT0=three[0].shape[1],
        OUT1=three[1].shape[1],
        OUT2=three[2].shape[1],
        PAGE=pages.shape[1],
        ROWWISE=plan.tiling.is_rowwise,
        HAS_MANY=plan.tiling.has_many,
        **plan.tiling.constants,
        **options,
    )


@triton.jit
def _expand(
    output0,
    output1,
    output2,
    pages,
    row_start,
    slots,
    page_table,
    starts,
    records,
    bridge,
    stride0,
    stride1,
    stride2,
    table_stride,
    MODULES: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
    PAGE: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    ROWWISE: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    HAS_MANY: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    ALIGNED: tl.constexpr,
    CHAINED: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    adapters = tl.arange(0, LIVE)
    COLUMNS: tl.constexpr = SUBS * SUB
    few_starts = tl.load(starts + 2 * (LIVE + 1) + adapters)
    num_few = tl.load(starts + 2 * (LIVE + 1) + LIVE)
    # Consecutive units, of 16 rank rows each, so that those of one tile follow each other in one program.
    begin = num_few * program // tl.num_programs(0)
    end = num_few * (program + 1) // tl.num_programs(0)
    begin = _whole_tile(
        begin, num_few, few_starts, starts + 2 * (LIVE + 1), records, MODULES, COLUMNS, OUT0, OUT1, FEW_RANKS
    )
    end = _whole_tile(
        end, num_few, few_starts, starts + 2 * (LIVE + 1), records, MODULES, COLUMNS, OUT0, OUT1, FEW_RANKS
    )
    share = tl.zeros((SUBS, SUB, FEW), tl.float32)
    for unit in tl.range(begin, end):
        live = adapter_of(few_starts, unit)
        own = records + live * MODULES * 4
        module, tile, block, num_blocks = _unit(
            unit - tl.load(starts + 2 * (LIVE + 1) + live), own, MODULES, COLUMNS, OUT0, OUT1, FEW_RANKS
        )
        row = tl.load(row_start + live)
        num_rows = tl.load(row_start + live + 1) - row
        table = page_table + tl.load(slots + live) * table_stride
        rank = tl.load(own + module * 4)
        place = tl.load(own + module * 4 + 2)
        width = _of_module(module, OUT0, OUT1, OUT2, MODULES)
        # A tile: [SUBS, FEW_RANKS, SUB] of B, and [FEW_RANKS, FEW] of the bridge.
        r = block * FEW_RANKS + tl.arange(0, FEW_RANKS)
        t = tl.arange(0, FEW)
        start = tile * COLUMNS + tl.arange(0, SUBS) * SUB
        n = tl.arange(0, SUB)
        column = start[:, None, None] + n[None, None, :]
        element = place + r[None, :] * width + start[:, None]
        is_there = (r < rank)[None, :] & (start < width)[:, None]
        if ROWWISE:
            element = tl.multiple_of(element, [16, 16])
            base = tl.multiple_of(address_of(table, element, is_there, PAGE), [16, 16])
            b = tl.load(
                pages + base[:, :, None] + n[None, None, :],
                mask=(r < rank)[None, :, None] & (column < width),
                other=0.0,
            )
        else:
            each = element[:, :, None] + n[None, None, :]
            mask = (r < rank)[None, :, None] & (column < width)
            b = tl.load(pages + address_of(table, each, mask, PAGE), mask=mask, other=0.0)
        part = tl.load(
            bridge + ((row + t)[None, :].to(tl.int64) * MODULES + module) * WIDTH + r[:, None],
            mask=(t < num_rows)[None, :] & (r < rank)[:, None],
            other=0.0,
        )
        parts = tl.broadcast_to(part[None, :, :], (SUBS, FEW_RANKS, FEW))
        share = tl.where(block == 0, 0.0, share)
        share = tl.dot(tl.trans(b, (0, 2, 1)), parts, share, input_precision=PRECISION)
        if block == num_blocks - 1:
            scale = tl.load(own + module * 4 + 3).to(tl.float32, bitcast=True)
            output = _of_module(module, output0, output1, output2, MODULES)
            stride = _of_module(module, stride0, stride1, stride2, MODULES)
            at = (row + t)[None, None, :].to(tl.int64) * stride + (start[:, None] + n[None, :])[:, :, None]
            mask = (t < num_rows)[None, None, :] & ((start[:, None] + n[None, :]) < width)[:, :, None]
            old = tl.load(output + at, mask=mask, other=0.0).to(tl.float32)
            new = tl.fma(share, tl.full(share.shape, scale, tl.float32), old)
            tl.store(output + at, new.to(output0.dtype.element_ty), mask=mask)
    if HAS_MANY:
        many_starts = tl.load(starts + 3 * (LIVE + 1) + adapters)
        num_many = tl.load(starts + 3 * (LIVE + 1) + LIVE)
        for tile in range(tl.num_programs(0) - 1 - program, num_many, tl.num_programs(0)):
            live = adapter_of(many_starts, tile)
            own = records + live * MODULES * 4
            local = tile - tl.load(starts + 3 * (LIVE + 1) + live)
            first = tl.where(tl.load(own) > 0, (OUT0 + SUB - 1) // SUB, 0)
            second = 0
            num_tiles = first
            if MODULES > 1:
                second = tl.where(tl.load(own + 4) > 0, (OUT1 + SUB - 1) // SUB, 0)
                num_tiles += second
            if MODULES > 2:
                num_tiles += tl.where(tl.load(own + 8) > 0, (OUT2 + SUB - 1) // SUB, 0)
            module, column_tile = module_of(local % num_tiles, first, second, MODULES)
            row = tl.load(row_start + live) + local // num_tiles * ROWS
            num_rows = tl.load(row_start + live + 1) - row
            table = page_table + tl.load(slots + live) * table_stride
            rank = tl.load(own + module * 4)
            place = tl.load(own + module * 4 + 2)
            width = _of_module(module, OUT0, OUT1, OUT2, MODULES)
            t = tl.arange(0, ROWS)
            n = tl.arange(0, SUB)
            start = column_tile * SUB
            is_column = (start + n < width)[None, :]
            is_row = (t < num_rows)[:, None]
            output = _of_module(module, output0, output1, output2, MODULES)
            stride = _of_module(module, stride0, stride1, stride2, MODULES)
            if ALIGNED:
                stride = tl.multiple_of(stride, 8)
            at = (row + t).to(tl.int64)[:, None] * stride + (start + n)[None, :]
            shares = tl.zeros((ROWS, SUB), tl.float32)
            for block in range(0, rank, RANKS):
                r = block + tl.arange(0, RANKS)
                element = place + r * width + start
                if ROWWISE:
                    element = tl.multiple_of(element, 16)
                    base = tl.multiple_of(address_of(table, element, r < rank, PAGE), 16)
                    b = tl.load(pages + base[:, None] + n[None, :], mask=(r < rank)[:, None] & is_column, other=0.0)
                else:
                    each = element[:, None] + n[None, :]
                    mask = (r < rank)[:, None] & is_column
                    b = tl.load(pages + address_of(table, each, mask, PAGE), mask=mask, other=0.0)
                part = tl.load(
                    bridge + ((row + t).to(tl.int64)[:, None] * MODULES + module) * WIDTH + r[None, :],
                    mask=is_row & (r < rank)[None, :],
                    other=0.0,
                )
                shares = tl.dot(part, b, shares, input_precision=PRECISION)
            scale = tl.load(own + module * 4 + 3).to(tl.float32, bitcast=True)
            old = tl.load(output + at, mask=is_row & is_column, other=0.0).to(tl.float32)
            new = tl.fma(shares, tl.full(shares.shape, scale, tl.float32), old)
            tl.store(output + at, new.to(output0.dtype.element_ty), mask=is_row & is_column)


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
def _unit(
    local,
    records,
    MODULES: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    RANKS: tl.constexpr,
):
    """Module, tile of columns, block of ranks and number of blocks of an adapter's unit."""
    blocks = (tl.load(records) + RANKS - 1) // RANKS
    first = blocks * ((OUT0 + COLUMNS - 1) // COLUMNS)
    second = 0
    if MODULES > 1:
        blocks1 = (tl.load(records + 4) + RANKS - 1) // RANKS
        second = blocks1 * ((OUT1 + COLUMNS - 1) // COLUMNS)
    module, place = module_of(local, first, second, MODULES)
    if MODULES > 1:
        blocks = tl.where(module == 1, blocks1, blocks)
    if MODULES > 2:
        blocks = tl.where(module == 2, (tl.load(records + 8) + RANKS - 1) // RANKS, blocks)
    blocks = tl.maximum(blocks, 1)
    return module, place // blocks, place % blocks, blocks


@triton.jit
def _whole_tile(
    unit,
    num_units,
    starts,
    start_of,
    records,
    MODULES: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    RANKS: tl.constexpr,
):
    """The first unit at or after `unit` that begins a tile."""
    begin = unit
    if unit < num_units:
        live = adapter_of(starts, unit)
        _, _, block, num_blocks = _unit(
            unit - tl.load(start_of + live), records + live * MODULES * 4, MODULES, COLUMNS, OUT0, OUT1, RANKS
        )
        begin = tl.where(block == 0, unit, unit + num_blocks - block)
    return begin
