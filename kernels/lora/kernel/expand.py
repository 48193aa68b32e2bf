"""`outputs[m][t] += scale * bridge[t, m] @ B[m]`: every row's ranks up to its outputs."""

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.plan import RECORD, Plan
from kernels.lora.kernel.tiling import (
    EXPAND_ROWS,
    LINE_BYTES,
    adapter_of,
    address_of,
    of_module,
    precision_of,
    prefetch,
)


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
    page_table = batch.directory.page_table
    _expand[(num_programs,)](
        *three,
        pages,
        page_table,
        plan.starts[layer],
        plan.records[layer],
        plan.bridge,
        *[output.stride(0) for output in three],
        page_table.shape[1],
        MODULES=len(outputs),
        PRECISION=precision_of(pages.dtype),
        WIDTH=plan.bridge.shape[1],
        OUT0=three[0].shape[1],
        OUT1=three[1].shape[1],
        OUT2=three[2].shape[1],
        PAGE=pages.shape[1],
        RECORD=RECORD,
        STEPS=plan.tiling.steps,
        EXPAND_ROWS=EXPAND_ROWS,
        EXPAND_RANKS=plan.tiling.expand_ranks,
        LINE=LINE_BYTES // pages.element_size(),
        ROWWISE=plan.tiling.is_rowwise,
        HAS_MANY=plan.tiling.has_many,
        **plan.tiling.constants,
        **options,
    )


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
    WIDTH: tl.constexpr,
    OUT0: tl.constexpr,
    OUT1: tl.constexpr,
    OUT2: tl.constexpr,
    PAGE: tl.constexpr,
    RECORD: tl.constexpr,
    ROWWISE: tl.constexpr,
    HAS_MANY: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    FEW: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    ROOM: tl.constexpr,
    LIVE: tl.constexpr,
    STEPS: tl.constexpr,
    EXPAND_ROWS: tl.constexpr,
    EXPAND_RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
    LINE: tl.constexpr,
):
    program = tl.program_id(0)
    adapters = tl.arange(0, LIVE)
    few_starts = tl.load(starts + 2 * ROOM + adapters)
    num_few = tl.load(starts + 2 * ROOM + LIVE)
    if CHAINED:
        # While the shrink ends: begin to read the first tile's B.
        if program < num_few:
            live = adapter_of(few_starts, program)
            record = records + live * RECORD
            local = program - tl.load(starts + 2 * ROOM + live)
            module, column, _ = _place_of(record, local, MODULES, SUBS * SUB, OUT0, OUT1)
            table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
            width = of_module(module, OUT0, OUT1, OUT2, MODULES)
            place = tl.load(record + 6 + module * 4)
            rank = tl.load(record + 4 + module * 4)
            n = column * (SUBS * SUB) + tl.arange(0, SUBS * SUB // LINE) * LINE
            for block in range(0, rank, FEW_RANKS):
                r = block + tl.arange(0, FEW_RANKS)
                there = (r < rank)[:, None] & (n < width)[None, :]
                element = place + r[:, None] * width + n[None, :]
                prefetch(pages + address_of(table, element, there, PAGE), there, pages)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    for tile in range(program, num_few, tl.num_programs(0)):
        live = adapter_of(few_starts, tile)
        record = records + live * RECORD
        local = tile - tl.load(starts + 2 * ROOM + live)
        row = tl.load(record)
        table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
        module, column, first = _place_of(record, local, MODULES, SUBS * SUB, OUT0, OUT1)
        own = record + 4 + module * 4
        output = of_module(module, output0, output1, output2, MODULES)
        stride = of_module(module, stride0, stride1, stride2, MODULES)
        width = of_module(module, OUT0, OUT1, OUT2, MODULES)
        start = column * (SUBS * SUB) + tl.arange(0, SUBS) * SUB
        n = start[:, None] + tl.arange(0, SUB)[None, :]
        t = tl.arange(0, FEW)
        is_row = t < tl.load(record + 1)
        at = output + (row + t)[None, None, :].to(tl.int64) * stride + n[:, :, None]
        mask = is_row[None, None, :] & (n < width)[:, :, None]
        old = tl.load(at, mask=mask, other=0.0)
        share = _few_share(
            bridge + row.to(tl.int64) * WIDTH + first,
            is_row,
            pages,
            table,
            tl.load(own + 2),
            tl.load(own),
            start,
            width,
            WIDTH,
            PAGE,
            SUB,
            SUBS,
            ROWWISE,
            FEW,
            FEW_RANKS,
            PRECISION,
        )  # [SUBS, SUB, FEW]
        scale = tl.load(own + 3).to(tl.float32, bitcast=True)
        new = tl.fma(share, tl.full(share.shape, scale, tl.float32), old.to(tl.float32))
        tl.store(at, new.to(output0.dtype.element_ty), mask=mask)
    if HAS_MANY:
        many_starts = tl.load(starts + 3 * ROOM + adapters)
        num_many = tl.load(starts + 3 * ROOM + LIVE)
        # From the other end, so that programs with one tile fewer of the first kind take one more of this.
        for tile in range(tl.num_programs(0) - 1 - program, num_many, tl.num_programs(0)):
            live = adapter_of(many_starts, tile)
            record = records + live * RECORD
            local = tile - tl.load(starts + 3 * ROOM + live)
            num_columns = _num_columns(record, MODULES, SUB, OUT0, OUT1, OUT2)
            skipped = local // num_columns * (STEPS * EXPAND_ROWS)
            table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
            module, column, first = _place_of(record, local % num_columns, MODULES, SUB, OUT0, OUT1)
            own = record + 4 + module * 4
            _many_rows(
                of_module(module, output0, output1, output2, MODULES),
                of_module(module, stride0, stride1, stride2, MODULES),
                of_module(module, OUT0, OUT1, OUT2, MODULES),
                tl.load(own + 3).to(tl.float32, bitcast=True),
                bridge + first,
                tl.load(record) + skipped,
                tl.load(record + 1) - skipped,
                pages,
                table,
                tl.load(own + 2),
                tl.load(own),
                column * SUB,
                WIDTH,
                PAGE,
                SUB,
                ROWWISE,
                EXPAND_ROWS,
                STEPS,
                EXPAND_RANKS,
                PRECISION,
            )


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
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    ROWWISE: tl.constexpr,
    FEW: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What a few rows of the bridge give through `SUBS` sub-blocks of outputs, one for each warp."""
    n = tl.arange(0, SUB)
    t = tl.arange(0, FEW)
    share = tl.zeros((SUBS, SUB, FEW), tl.float32)
    for block in tl.range(0, rank, RANKS, num_stages=2):
        r = block + tl.arange(0, RANKS)
        element = place + r[None, :] * width + start[:, None]
        is_there = (r < rank)[None, :] & (start < width)[:, None]
        mask = (r < rank)[None, :, None] & (start[:, None] + n[None, :] < width)[:, None, :]
        if ROWWISE:
            element = tl.multiple_of(element, [16, 16])
            base = tl.multiple_of(address_of(table, element, is_there, PAGE), [16, 16])
            b = tl.load(pages + base[:, :, None] + n[None, None, :], mask=mask, other=0.0)
        else:
            b = tl.load(
                pages + address_of(table, element[:, :, None] + n[None, None, :], mask, PAGE), mask=mask, other=0.0
            )
        part = tl.load(bridge + t[None, :] * WIDTH + r[:, None], mask=is_row[None, :] & (r < rank)[:, None], other=0.0)
        parts = tl.broadcast_to(part[None, :, :], (SUBS, RANKS, FEW))
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
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    SUB: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    RANKS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds to a sub-block of columns of many rows, `STEPS` tiles, each read while the one before is added to."""
    t = tl.arange(0, ROWS)
    n = start + tl.arange(0, SUB)
    r = tl.arange(0, RANKS)
    is_column = n < width
    b = _b_of(pages, table, place, rank, r, start, width, PAGE, SUB, ROWWISE)
    parts = bridge + (row + t).to(tl.int64)[:, None] * WIDTH + r[None, :]
    outs = output + (row + t).to(tl.int64)[:, None] * stride + n[None, :]
    is_part = (r < rank)[None, :]
    mask = (t < num_rows)[:, None] & is_column[None, :]
    part = tl.load(parts, mask=(t < num_rows)[:, None] & is_part, other=0.0)
    old = tl.load(outs, mask=mask, other=0.0)
    for step in range(0, tl.minimum(STEPS * ROWS, num_rows), ROWS):
        is_next = (step + ROWS + t < tl.minimum(STEPS * ROWS, num_rows))[:, None]
        next_part = tl.load(parts + (step + ROWS) * WIDTH, mask=is_next & is_part, other=0.0)
        next_outs = outs + ROWS * stride
        next_old = tl.load(next_outs, mask=is_next & is_column[None, :], other=0.0)
        share = tl.dot(part, b, input_precision=PRECISION)
        for block in range(RANKS, rank, RANKS):
            later = block + r
            more_b = _b_of(pages, table, place, rank, later, start, width, PAGE, SUB, ROWWISE)
            is_more = (step + t < num_rows)[:, None] & (later < rank)[None, :]
            more = tl.load(parts + step * WIDTH + block, mask=is_more, other=0.0)
            share = tl.dot(more, more_b, share, input_precision=PRECISION)
        new = tl.fma(share, tl.full(share.shape, scale, tl.float32), old.to(tl.float32))
        tl.store(outs, new.to(output.dtype.element_ty), mask=(step + t < num_rows)[:, None] & is_column[None, :])
        part = next_part
        old = next_old
        outs = next_outs


@triton.jit
def _b_of(pages, table, place, rank, r, start, width, PAGE: tl.constexpr, SUB: tl.constexpr, ROWWISE: tl.constexpr):
    """Rows of transposed B in a sub-block of columns, `[ranks, SUB]`."""
    n = tl.arange(0, SUB)
    mask = (r < rank)[:, None] & (start + n < width)[None, :]
    element = place + r * width + start
    if ROWWISE:
        element = tl.multiple_of(element, 16)
        base = tl.multiple_of(address_of(table, element, r < rank, PAGE), 16)
        at = base[:, None] + n[None, :]
    else:
        at = address_of(table, element[:, None] + n[None, :], mask, PAGE)
    return tl.load(pages + at, mask=mask, other=0.0)
