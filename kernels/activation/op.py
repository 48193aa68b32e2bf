"""The op that the model calls: the kernel of the device, or the reference."""

from torch import Tensor

from kernels.activation import reference
from kernels.device import kernel_of
from kernels.lora.delta import LoraDelta


def silu_mul(gate_up: Tensor, out: Tensor | None = None, delta: LoraDelta | None = None) -> Tensor:
    """SwiGLU's product (arXiv 2002.05202), rounded to the dtype after the sigmoid's product, as transformers does.

    With `gate, up` the halves of each row:

        output[t] = round(gate[t] * sigmoid(gate[t])) * up[t]

    Args:
        gate_up: `[num_rows, 2 * width]`, with unit stride in its last dimension; not changed, but perhaps by `delta`.
        out: Where the result goes, `[num_rows, width]` contiguous; None: a new tensor.
        delta: Adapters' share of `gate_up`, with gate and up as its outputs, which is added first; None: there is none.

    Returns:
        `[num_rows, width]`.
    """
    if gate_up.is_cuda:
        product: Tensor = kernel_of("activation").silu_mul(gate_up, out, delta)
        return product
    return reference.silu_mul(gate_up, out, delta)
