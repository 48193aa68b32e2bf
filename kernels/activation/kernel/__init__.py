"""SwiGLU's product in Triton: a program computes a block of columns of a row."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.activation.kernel import hopper
from kernels.chain import chained
from kernels.launch import launch
from kernels.linear.checks import alike, check_linear
from kernels.linear.kernel import multiply
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
from kernels.lora.kernel.expand import expand_unless_by_row

_COLUMNS, _DELTA_COLUMNS = 2048, 256  # of a program, at most: without adapters, and with


@triton.jit(do_not_specialize=["table_stride"])
def _silu_mul(
    output,
    gate_up,
    row_stride,
    width,
    bridge,
    owners,
    records,
    lora_pages,
    page_table,
    table_stride,
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
    row = tl.program_id(0)
    first_column = tl.program_id(1) * (RUNS * RUN)
    column = first_column + tl.arange(0, RUNS * RUN)
    # Runs of gate's columns, then the same of up's.
    run = tl.arange(0, 2 * RUNS)
    start = first_column + run % RUNS * RUN
    if HAS_DELTA:
        own = owned(tl.load(owners + row), run // RUNS, records, page_table, table_stride, 2, RECORD)
        b = first_b_of(own, start, RUN, width, lora_pages, RUN, RUNWISE, PAGE, RANKS, EARLY)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    inside = column < width
    place = gate_up + row.to(tl.int64) * row_stride + column
    gate = tl.load(place, inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        shares = share_of(b, own, row, start, RUN, width, bridge, lora_pages, RUN, RUNWISE, PIECES, BRIDGE, PAGE, RANKS,
                          EARLY)  # fmt: skip
        gate_share, up_share = tl.split(tl.permute(tl.reshape(shares, (2, RUNS * RUN)), (1, 0)))
        gate += gate_share
        up += up_share
    tl.store(output + row.to(tl.int64) * width + column, _product_of(gate, up, dtype), inside)


@triton.jit
def _product_of(gate, up, dtype: tl.constexpr):
    """SwiGLU's product of what rounds to `dtype`."""
    gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    gated = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32)
    return (gated * up).to(dtype)


def silu_mul(gate_up: Tensor, out: Tensor | None = None, delta: LoraDelta | None = None) -> Tensor:
    """As `kernels.activation.silu_mul`."""
    _check(gate_up, out)
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    output = gate_up.new_empty((num_rows, width)) if out is None else out
    if num_rows and width:
        _launch(output, gate_up, expand_unless_by_row(delta, gate_up, [width, width]))
    return output


def _check(gate_up: Tensor, out: Tensor | None) -> None:
    """Raises ValueError, which names the argument."""
    if gate_up.dim() != 2 or gate_up.stride(1) != 1 or gate_up.shape[1] % 2 or not gate_up.dtype.is_floating_point:
        raise ValueError(
            "gate_up has to be [num_rows, 2 * width] of a floating type with unit stride, not "
            f"{list(gate_up.shape)} {gate_up.dtype} with strides {list(gate_up.stride())}"
        )
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    if out is None:
        return
    if out.shape != (num_rows, width) or not out.is_contiguous() or not alike(out, gate_up):
        raise ValueError(
            f"out has to be [{num_rows}, {width}] contiguous {gate_up.dtype} on {gate_up.device}, not "
            f"{list(out.shape)} {out.dtype} on {out.device}"
        )


def linear_silu_mul(x: Tensor, weight: Tensor, gate_up: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `kernels.activation.linear_silu_mul`."""
    check_linear(x, weight, gate_up, bias)
    _check(gate_up, out)
    if bias is None and hopper.suits(x, weight, out):
        hopper.linear_silu_mul(x, weight, out)
        return out
    return silu_mul(multiply(x, weight, gate_up, bias, chained=True), out)


def _launch(output: Tensor, gate_up: Tensor, delta: LoraDelta | None) -> None:
    """Fills `output`; what adapters add to rows that have no owner stands in `gate_up` already."""
    num_rows, width = output.shape
    columns = min(_COLUMNS, triton.next_power_of_2(width))
    if delta is not None:
        columns = max(MIN_COLUMNS, min(_DELTA_COLUMNS, columns))
    run = run_length(delta, columns)
    launch(
        _silu_mul,
        (num_rows, triton.cdiv(width, columns)),
        output,
        gate_up,
        gate_up.stride(0),
        width,
        RUNS=columns // run,
        RUN=run,
        RUNWISE=is_runwise(delta, run),
        num_warps=max(1, columns // 256),  # with adapters, so that a thread has all ranks of its columns
        **arguments(delta, gate_up),
        **chained(gate_up.device),
    )
