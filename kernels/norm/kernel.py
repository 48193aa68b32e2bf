"""RMSNorm in Triton: a program holds one row, so that it is read once and written once."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.norm.checks import check_norm, check_rows

_WARP_ELEMENTS = 512  # of a row for each warp: two loads of 16 bytes a thread in a type of 2 bytes


@triton.jit
def _norm_rows(
    output,  # [num_programs, width]
    hidden,
    update,
    weight,
    rows,
    hidden_stride,
    update_stride,
    width,
    epsilon,
    BLOCK: tl.constexpr,
    ADDS: tl.constexpr,
    GATHERS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = program
    if GATHERS:
        row = tl.load(rows + program)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    dtype = output.dtype.element_ty
    place = hidden + row * hidden_stride + columns
    values = tl.load(place, inside, other=0.0).to(tl.float32)
    if ADDS:
        added = tl.load(update + row * update_stride + columns, inside, other=0.0).to(tl.float32)
        total = (values + added).to(dtype)
        if not GATHERS:
            tl.store(place, total, inside)
        values = total.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + epsilon)
    normed = (values * scale).to(dtype).to(tl.float32)
    factor = tl.load(weight + columns, inside, other=0.0).to(tl.float32)
    tl.store(output + program * width + columns, (normed * factor).to(dtype), inside)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """As `kernels.norm.rms_norm`."""
    check_norm(x, None, weight, out)
    return _launch(out, x, x, x, weight, epsilon, x.shape[0], adds=False, gathers=False)


def add_rms_norm(hidden: Tensor, update: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """As `kernels.norm.add_rms_norm`."""
    check_norm(hidden, update, weight, out)
    return _launch(out, hidden, update, hidden, weight, epsilon, hidden.shape[0], adds=True, gathers=False)


def gather_rms_norm(hidden: Tensor, update: Tensor, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As `kernels.norm.gather_rms_norm`."""
    check_norm(hidden, update, weight, None)
    check_rows(rows, hidden)
    return _launch(None, hidden, update, rows, weight, epsilon, rows.shape[0], adds=True, gathers=True)


def _launch(
    out: Tensor | None,
    hidden: Tensor,
    update: Tensor,
    rows: Tensor,
    weight: Tensor,
    epsilon: float,
    num_programs: int,
    *,
    adds: bool,
    gathers: bool,
) -> Tensor:
    width = hidden.shape[1]
    output = hidden.new_empty((num_programs, width)) if out is None else out
    if num_programs:
        block = triton.next_power_of_2(width)
        _norm_rows[(num_programs,)](
            output,
            hidden,
            update,
            weight,
            rows,
            hidden.stride(0),
            update.stride(0),
            width,
            epsilon,
            BLOCK=block,
            ADDS=adds,
            GATHERS=gathers,
            num_warps=min(16, max(1, block // _WARP_ELEMENTS)),
        )
    return output
