"""SwiGLU's product in Triton: a program computes a block of columns of one row."""

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


@triton.jit
def _silu_mul(output, gate_up, row_stride, width, num_blocks, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    columns = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = gate_up + row * row_stride + columns
    gate = tl.load(place, inside, other=0.0).to(tl.float32)
    up = tl.load(place + width, inside, other=0.0).to(tl.float32)
    dtype = output.dtype.element_ty
    gated = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32)
    tl.store(output + row * width + columns, (gated * up).to(dtype), inside)


def silu_mul(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
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
        block = min(_BLOCK, triton.next_power_of_2(width))
        num_blocks = triton.cdiv(width, block)
        _silu_mul[(num_rows * num_blocks,)](
            output, gate_up, gate_up.stride(0), width, num_blocks, BLOCK=block, num_warps=max(1, block // 256)
        )
    return output
