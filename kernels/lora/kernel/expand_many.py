"""MBGMM's expand for batches of many rows: on tensor cores, an adapter's consecutive rows at a time.

A program adds to some columns of tiles of rows one after the other, each read while the one before is added to, and
reads what these have in common of the adapter's matrix once.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import EXPAND_COLUMNS, EXPAND_STEPS, MANY_ROWS, adapter_of, page_of, precision_of


def expand_many(delta: LoraDelta, three: list[Tensor], num_programs: int, **options: Any) -> None:
    """As `kernels.lora.expand`; `three` are the outputs, and any others in the places of those that there are not."""
    plan, pages, page_table = delta.plan, delta.pages, delta.batch.directory.page_table
    _expand_many[(num_programs,)](
        *three,
        pages,
        page_table,
        plan.starts[delta.layer, 2],
        plan.records[delta.layer],
        plan.bridge,
        *[output.stride(0) for output in three],
        page_table.shape[1],
        MODULES=len(delta.outputs),
        PRECISION=precision_of(pages.dtype),
        WIDTH=plan.bridge.shape[2],
        OUT0=three[0].shape[1],
        OUT1=three[1].shape[1],
        OUT2=three[2].shape[1],
        PAGE=pages.shape[1],
        RECORD=RECORD,
        STEPS=EXPAND_STEPS,
        ROWS=MANY_ROWS,
        RANKS=plan.tiling.expand_ranks,
        COLUMNS=EXPAND_COLUMNS,
        ROWWISE=delta.batch.directory.chunk_elements % EXPAND_COLUMNS == 0,
        LIVE=plan.tiling.live,
        **options,
    )


@triton.jit(do_not_specialize=["table_stride"])
def _expand_many(
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
    STEPS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    own_starts = tl.load(starts + tl.arange(0, LIVE))
    num_tiles = tl.load(starts + LIVE)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        live = adapter_of(own_starts, tile)
        record = records + live * RECORD
        local = tile - tl.load(starts + live)
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
    is_column = n < width
    b = _b_of(pages, table, place, rank, r, start, width, PAGE, COLUMNS, ROWWISE)
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
        share = tl.dot(part.to(b.dtype), b, input_precision=PRECISION)
        for block in range(RANKS, rank, RANKS):
            later = block + r
            more_b = _b_of(pages, table, place, rank, later, start, width, PAGE, COLUMNS, ROWWISE)
            is_more = (step + t < num_rows)[:, None] & (later < rank)[None, :]
            more = tl.load(parts + step * WIDTH + block, mask=is_more, other=0.0)
            share = tl.dot(more.to(b.dtype), more_b, share, input_precision=PRECISION)
        new = tl.fma(share, tl.full(share.shape, scale, tl.float32), old.to(tl.float32))
        tl.store(outs, new.to(output.dtype.element_ty), mask=(step + t < num_rows)[:, None] & is_column[None, :])
        part = next_part
        old = next_old
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
