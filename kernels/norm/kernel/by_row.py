"""RMSNorm in Triton: a program holds a row, so that it is read once and written once."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.chain import chained
from kernels.launch import launch
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import (
    MIN_COLUMNS,
    arguments,
    first_b_of,
    is_runwise,
    owned,
    run_length,
    share_of,
)

MOST_COLUMNS = 4096  # of a row with a delta: what a program has registers for, with all ranks of a thread's columns
_WARP_ELEMENTS, _DELTA_WARP_ELEMENTS = 512, 256  # of a row for each warp: without adapters, and with


@triton.jit(do_not_specialize=["table_stride"])
def _norm_rows(
    output,  # [num_wanted, width]
    hidden,
    update,
    weight,
    rows,
    hidden_stride,
    update_stride,
    width,
    epsilon,
    bridge,
    owners,
    records,
    lora_pages,
    page_table,
    table_stride,
    ADDS: tl.constexpr,
    GATHERS: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
    RUNWISE: tl.constexpr,
    HAS_DELTA: tl.constexpr,
    PIECES: tl.constexpr,
    BRIDGE: tl.constexpr,
    RECORD: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    EARLY: tl.constexpr,
    CHAINED: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    dtype = output.dtype.element_ty
    wanted = tl.program_id(0)
    row = _row_of(wanted, rows, GATHERS)
    columns = tl.arange(0, RUNS * RUN)
    start = tl.arange(0, RUNS) * RUN
    if HAS_DELTA:
        own = owned(tl.load(owners + row), tl.zeros((RUNS,), tl.int32), records, page_table, table_stride, 1, RECORD)
        b = first_b_of(own, start, RUN, width, lora_pages, RUN, RUNWISE, PAGE, RANKS, EARLY)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    inside = columns < width
    place = hidden + row * hidden_stride + columns
    values = tl.load(place, inside, other=0.0).to(tl.float32)
    if ADDS:
        added = tl.load(update + row * update_stride + columns, inside, other=0.0).to(tl.float32)
        if HAS_DELTA:
            share = share_of(b, own, row, start, RUN, width, bridge, lora_pages, RUN, RUNWISE, PIECES, BRIDGE, PAGE,
                             RANKS, EARLY)  # fmt: skip
            added = (added + tl.reshape(share, (RUNS * RUN,))).to(dtype).to(tl.float32)
        total = (values + added).to(dtype)
        if not GATHERS:
            tl.store(place, total, inside)
        values = total.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + epsilon)
    normed = (values * scale).to(dtype).to(tl.float32)
    factor = tl.load(weight + columns, inside, other=0.0).to(tl.float32)
    tl.store(output + wanted.to(tl.int64) * width + columns, (normed * factor).to(dtype), inside)


@triton.jit
def _row_of(wanted, rows, GATHERS: tl.constexpr):
    row = wanted.to(tl.int64)
    if GATHERS:
        row = tl.load(rows + wanted)
    return row


def norm_by_row(
    output: Tensor,
    hidden: Tensor,
    update: Tensor,
    rows: Tensor,
    weight: Tensor,
    epsilon: float,
    delta: LoraDelta | None,
    *,
    adds: bool,
    gathers: bool,
) -> None:
    """Fills `output`; where it does not add or gather, `update` or `rows` stands for nothing."""
    width = hidden.shape[1]
    columns = triton.next_power_of_2(width)
    num_warps = min(16, max(1, columns // _WARP_ELEMENTS))
    if delta is not None:
        columns = max(MIN_COLUMNS, columns)
        num_warps = min(16, max(1, columns // _DELTA_WARP_ELEMENTS))
    run = run_length(delta, columns)
    launch(
        _norm_rows,
        (output.shape[0],),
        output,
        hidden,
        update,
        weight,
        rows,
        hidden.stride(0),
        update.stride(0),
        width,
        epsilon,
        ADDS=adds,
        GATHERS=gathers,
        RUNS=columns // run,
        RUN=run,
        RUNWISE=is_runwise(delta, run),
        num_warps=num_warps,
        **arguments(delta, hidden),
        **chained(hidden.device),
    )
