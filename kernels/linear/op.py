"""The op that the model calls: the kernel of the device, or the reference."""

from torch import Tensor

from kernels.device import kernel_of
from kernels.linear import reference


def linear(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None = None, *, chained: bool = False) -> Tensor:
    """A linear layer, or several over the same input as one.

        out[t] = x[t] @ weight.T + bias

    with sums in float32 on a GPU, rounded once. There a row's bits do not depend on the other rows; on how many they
    are only in that up to 32, up to 64, and more may differ.

    Args:
        x: `[num_rows, in_features]`, with unit stride in its last dimension; not changed.
        weight: `[out_features, in_features]`, contiguous; dtype and device as `x`.
        out: `[num_rows, out_features]`, with unit stride in its last dimension; dtype and device as `x`; written.
        bias: `[out_features]`, contiguous; dtype and device as `x`; None: no bias.
        chained: On a GPU that can, begin to read `weight` while the kernel launched before this one runs: that and what
            it overlaps with must not write `weight`.

    Returns:
        `out`.

    Raises:
        ValueError: names the argument.
    """
    if x.is_cuda:
        product: Tensor = kernel_of("linear").linear(x, weight, out, bias, chained=chained)
        return product
    return reference.linear(x, weight, out, bias)
