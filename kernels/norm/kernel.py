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
    run_length,
    share_of,
)
from kernels.lora.kernel.expand import expand_unless_by_row
from kernels.norm.checks import check_norm, check_rows

_WARP_ELEMENTS, _DELTA_WARP_ELEMENTS = 512, 256  # of a row for each warp: without adapters, and with
_MAX_DELTA_COLUMNS = 4096  # that a program has registers for, with all ranks of a thread's columns


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
        owner = tl.load(owners + row)
        b = first_b_of(owner, 0, start, RUN, width, records, lora_pages, page_table, table_stride, RUN, RUNWISE, RECORD,
                       PAGE, RANKS, EARLY)  # fmt: skip
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    inside = columns < width
    place = hidden + row * hidden_stride + columns
    values = tl.load(place, inside, other=0.0).to(tl.float32)
    if ADDS:
        added = tl.load(update + row * update_stride + columns, inside, other=0.0).to(tl.float32)
        if HAS_DELTA:
            share = share_of(b, owner, row, 0, start, RUN, width, bridge, records, lora_pages, page_table,
                             table_stride, RUN, RUNWISE, PIECES, BRIDGE, RECORD, PAGE, RANKS, EARLY)  # fmt: skip
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


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """As `kernels.norm.rms_norm`."""
    check_norm(x, None, weight, out)
    return _launch(out, x, x, x, weight, epsilon, x.shape[0], None, adds=False, gathers=False)


def add_rms_norm(
    hidden: Tensor,
    update: Tensor,
    weight: Tensor,
    epsilon: float,
    out: Tensor | None = None,
    delta: LoraDelta | None = None,
) -> Tensor:
    """As `kernels.norm.add_rms_norm`."""
    check_norm(hidden, update, weight, out)
    return _launch(out, hidden, update, hidden, weight, epsilon, hidden.shape[0], delta, adds=True, gathers=False)


def gather_rms_norm(
    hidden: Tensor, update: Tensor, rows: Tensor, weight: Tensor, epsilon: float, delta: LoraDelta | None = None
) -> Tensor:
    """As `kernels.norm.gather_rms_norm`."""
    check_norm(hidden, update, weight, None)
    check_rows(rows, hidden)
    return _launch(None, hidden, update, rows, weight, epsilon, rows.shape[0], delta, adds=True, gathers=True)


def _launch(
    out: Tensor | None,
    hidden: Tensor,
    update: Tensor,
    rows: Tensor,
    weight: Tensor,
    epsilon: float,
    num_wanted: int,
    delta: LoraDelta | None,
    *,
    adds: bool,
    gathers: bool,
) -> Tensor:
    width = hidden.shape[1]
    output = hidden.new_empty((num_wanted, width)) if out is None else out
    if num_wanted:
        columns = triton.next_power_of_2(width)
        num_warps = min(16, max(1, columns // _WARP_ELEMENTS))
        delta = expand_unless_by_row(delta, update, [width], has_registers=columns <= _MAX_DELTA_COLUMNS)
        if delta is not None:
            columns = max(MIN_COLUMNS, columns)
            num_warps = min(16, max(1, columns // _DELTA_WARP_ELEMENTS))
        run = run_length(delta, columns)
        launch(
            _norm_rows,
            (num_wanted,),
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
    return output
