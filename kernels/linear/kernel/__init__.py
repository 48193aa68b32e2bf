"""A linear layer on a GPU: a kernel for few rows, the vendor's library for others."""

from torch import Tensor

from kernels.linear import reference
from kernels.linear.checks import check_linear
from kernels.linear.kernel import hopper
from kernels.linear.kernel.tiles import Tiles


def linear(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None = None, *, chained: bool = False) -> Tensor:
    """As `kernels.linear.linear`."""
    check_linear(x, weight, out, bias)
    return multiply(x, weight, out, bias, chained=chained)


def multiply(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None, *, chained: bool) -> Tensor:
    """As `linear`, of what has been checked."""
    tiles = Tiles.of(*out.shape)
    if tiles is None or not hopper.suits(x, weight, tiles):
        return reference.linear(x, weight, out, bias)
    if x.shape[0]:
        hopper.multiply(x, weight, out, bias, tiles, chained=chained)
    return out
