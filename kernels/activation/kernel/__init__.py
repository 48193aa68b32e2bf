"""SwiGLU's product in Triton: of rows one by one, or, in large batches with adapters, of tiles of their rows."""

from torch import Tensor

from kernels.activation.kernel.by_row import silu_mul_by_row
from kernels.activation.kernel.by_tile import silu_mul_by_tile
from kernels.lora.checks import check_delta
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.expand import expand_unless_by_row

__all__ = ["silu_mul"]


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
        if delta is not None and not delta.plan.tiling.is_split:
            check_delta(delta, gate_up, [width, width])
            silu_mul_by_tile(output, gate_up, delta)
        else:
            silu_mul_by_row(output, gate_up, expand_unless_by_row(delta, gate_up, [width, width]))
    return output
