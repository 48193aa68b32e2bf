"""A linear layer as its formula reads, in float64: what every implementation is measured against."""

from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `kernels.linear.linear`, in float64 and without a rounding; what would be in `out`."""
    product = x.double() @ weight.double().t()
    return product if bias is None else product + bias.double()
