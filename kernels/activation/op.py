"""The op that the model calls: the kernel of the device, or the reference."""

from torch import Tensor

from kernels.activation import reference
from kernels.device import kernel_of
from kernels.linear import linear
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


def linear_silu_mul(x: Tensor, weight: Tensor, gate_up: Tensor, out: Tensor, bias: Tensor | None = None) -> Tensor:
    """A gated linear layer, and SwiGLU's product of what it gives.

        output[t] = silu_mul(x[t] @ weight.T + bias)

    with the roundings of `kernels.linear.linear` and `silu_mul`. On Hopper GPUs it is one kernel for half precision, no
    bias and as many rows as make that faster; a row's bits may depend on whether it is.

    Args:
        x: `[num_rows, in_features]`, with unit stride in its last dimension; not changed.
        weight: `[2 * width, in_features]`, contiguous, gate's rows and then up's; dtype and device as `x`. On a GPU
            that can it is read while the kernel launched before this one runs.
        gate_up: Memory for what the linear layer gives, `[num_rows, 2 * width]`, with unit stride in its last
            dimension; dtype and device as `x`. What is in it afterwards is nobody's.
        out: `[num_rows, width]` contiguous, apart from `x`; dtype and device as `x`; written.
        bias: `[2 * width]`, contiguous; dtype and device as `x`; None: no bias.

    Returns:
        `out`.

    Raises:
        ValueError: names the argument.
    """
    if x.is_cuda:
        product: Tensor = kernel_of("activation").linear_silu_mul(x, weight, gate_up, out, bias)
        return product
    return silu_mul(linear(x, weight, gate_up, bias, chained=True), out)
