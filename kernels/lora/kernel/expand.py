"""`outputs[m][t] += scale * bridge[t, m] @ B[m]`, for outputs that nothing else is about to read, or for many rows."""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.chain import chained
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import arguments, first_b_of, is_runwise, is_small, rows_of, run_length, share_of
from kernels.lora.kernel.expand_many import expand_many

_COLUMNS = 512  # of a program


def expand(delta: LoraDelta) -> None:
    """As `kernels.lora.expand`."""
    outputs = delta.outputs
    three = [*outputs, outputs[0], outputs[0]][:3]
    if is_small(delta):
        _expand_few(delta, three)
    else:
        expand_many(delta, three, **_many_options(outputs[0].device))


@cache
def _many_options(device: torch.device) -> dict[str, Any]:
    """As many programs as the device holds at a time, and how they are launched."""
    if device.type == "cpu":  # Triton's interpreter
        return {"num_programs": 2, **chained(device)}
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return {"num_programs": 3 * processors, "maxnreg": 168, **chained(device)}


def _expand_few(delta: LoraDelta, three: list[Tensor]) -> None:
    num_rows, each = three[0].shape[0], rows_of(three[0].shape[0])
    run = run_length(delta, _COLUMNS)
    widths = [output.shape[1] for output in delta.outputs]
    _expand[(triton.cdiv(num_rows, each), sum(triton.cdiv(width, _COLUMNS) for width in widths))](
        *three,
        *[output.stride(0) for output in three],
        num_rows,
        *[*widths, 0, 0][:3],
        NUM_ROWS=each,
        RUNS=_COLUMNS // run,
        RUN=run,
        RUNWISE=is_runwise(delta, run),
        num_warps=_COLUMNS // 256,  # so that a thread has all ranks of its columns
        **arguments(delta, three[0]),
        **chained(three[0].device),
    )


@triton.jit(do_not_specialize=["num_rows", "table_stride"])
def _expand(
    output0,
    output1,
    output2,
    stride0,
    stride1,
    stride2,
    num_rows,
    width0,
    width1,
    width2,
    bridge,
    owners,
    records,
    lora_pages,
    page_table,
    table_stride,
    NUM_ROWS: tl.constexpr,
    RUNS: tl.constexpr,
    RUN: tl.constexpr,
    RUNWISE: tl.constexpr,
    HAS_DELTA: tl.constexpr,  # noqa: ARG001 - given to all that call `share_of`
    PIECES: tl.constexpr,
    BRIDGE: tl.constexpr,
    RECORD: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    COLUMNS: tl.constexpr = RUNS * RUN
    first_row = tl.program_id(0) * NUM_ROWS
    tile = tl.program_id(1)
    num0 = (width0 + COLUMNS - 1) // COLUMNS
    num1 = (width1 + COLUMNS - 1) // COLUMNS
    module = (tile >= num0).to(tl.int32) + (tile >= num0 + num1).to(tl.int32)
    tile -= tl.where(module > 0, num0, 0) + tl.where(module > 1, num1, 0)
    width = tl.where(module == 0, width0, tl.where(module == 1, width1, width2))
    stride = tl.where(module == 0, stride0, tl.where(module == 1, stride1, stride2))
    output = tl.where(module == 0, output0, tl.where(module == 1, output1, output2))
    start = tile * COLUMNS + tl.arange(0, RUNS) * RUN
    n = tile * COLUMNS + tl.arange(0, COLUMNS)
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    owner = tl.load(owners + first_row)
    b = first_b_of(owner, module, start, RUN, width, records, lora_pages, page_table, table_stride, RUN, RUNWISE,
                   RECORD, PAGE, RANKS)  # fmt: skip
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    for each in range(NUM_ROWS):
        row = first_row + each
        if NUM_ROWS > 1:
            now = tl.load(owners + row, mask=row < num_rows, other=-1)
            if now != owner:
                b = first_b_of(now, module, start, RUN, width, records, lora_pages, page_table, table_stride, RUN,
                               RUNWISE, RECORD, PAGE, RANKS)  # fmt: skip
                owner = now
        share = share_of(b, owner, row, module, start, RUN, width, bridge, records, lora_pages, page_table,
                         table_stride, RUN, RUNWISE, PIECES, BRIDGE, RECORD, PAGE, RANKS)  # fmt: skip
        at = output + row.to(tl.int64) * stride + n
        mask = n < tl.where(owner >= 0, width, 0)
        new = tl.load(at, mask=mask, other=0.0).to(tl.float32) + tl.reshape(share, (COLUMNS,))
        tl.store(at, new.to(output0.dtype.element_ty), mask=mask)
