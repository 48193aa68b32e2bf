"""SwiGLU's product in Triton: a program computes a block of columns of a row."""

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
    start = first_column + tl.arange(0, RUNS) * RUN
    if HAS_DELTA:
        owner = tl.load(owners + row)
        gate_b = first_b_of(owner, 0, start, RUN, width, records, lora_pages, page_table, table_stride, RUN, RUNWISE,
                            RECORD, PAGE, RANKS, EARLY)  # fmt: skip
        up_b = first_b_of(owner, 1, start, RUN, width, records, lora_pages, page_table, table_stride, RUN, RUNWISE,
                          RECORD, PAGE, RANKS, EARLY)  # fmt: skip
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    inside = column < width
    place = gate_up + row.to(tl.int64) * row_stride + column
    gate = tl.load(place, inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, inside, other=0.0).to(tl.float32)
    if HAS_DELTA:
        share = share_of(gate_b, owner, row, 0, start, RUN, width, bridge, records, lora_pages, page_table,
                         table_stride, RUN, RUNWISE, PIECES, BRIDGE, RECORD, PAGE, RANKS, EARLY)  # fmt: skip
        gate += tl.reshape(share, (RUNS * RUN,))
        share = share_of(up_b, owner, row, 1, start, RUN, width, bridge, records, lora_pages, page_table,
                         table_stride, RUN, RUNWISE, PIECES, BRIDGE, RECORD, PAGE, RANKS, EARLY)  # fmt: skip
        up += tl.reshape(share, (RUNS * RUN,))
        gate, up = gate.to(dtype).to(tl.float32), up.to(dtype).to(tl.float32)
    gated = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32)
    tl.store(output + row.to(tl.int64) * width + column, (gated * up).to(dtype), inside)


def silu_mul(gate_up: Tensor, out: Tensor | None = None, delta: LoraDelta | None = None) -> Tensor:
    """As `kernels.activation.silu_mul`.

    Raises:
        ValueError: names the argument.
    """
    if gate_up.dim() != 2 or gate_up.stride(1) != 1 or gate_up.shape[1] % 2 or not gate_up.dtype.is_floating_point:
        raise ValueError(
            "gate_up has to be [num_rows, 2 * width] of a floating type with unit stride, not "
            f"{list(gate_up.shape)} {gate_up.dtype} with strides {list(gate_up.stride())}"
        )
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    if out is not None and (out.shape != (num_rows, width) or not out.is_contiguous() or out.dtype != gate_up.dtype):
        raise ValueError(
            f"out has to be [{num_rows}, {width}] contiguous {gate_up.dtype}, not {list(out.shape)} {out.dtype}"
        )
    output = gate_up.new_empty((num_rows, width)) if out is None else out
    if num_rows and width:
        columns = min(_COLUMNS, triton.next_power_of_2(width))
        delta = expand_unless_by_row(delta, gate_up, [width, width])
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
    return output
