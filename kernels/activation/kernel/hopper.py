"""Launch of a gated linear layer with SwiGLU's product, and when it is faster than these in turn."""

from torch import Tensor

from kernels.activation.kernel.hopper_gated import linear_silu_mul as kernel
from kernels.device import has_hopper_halves, num_processors
from kernels.launch import launch
from kernels.linear.kernel.hopper import describe
from kernels.linear.kernel.hopper_product import HALF, TILE
from kernels.linear.kernel.whole import (
    OPTIONS,
    arrivals_of,
    has_aligned_rows,
    library_us,
    num_steps,
    num_tiles,
    tile_us,
)

_LEAST_ROWS = 512  # with fewer, bytes count that `pays` knows nothing of
_BYTES_RATE = 4.3e6  # bytes a us of SwiGLU's product alone, measured on an H200


def suits(x: Tensor, weight: Tensor, out: Tensor) -> bool:
    """Whether the kernel takes these, and pays."""
    (num_rows, in_features), width = x.shape, out.shape[1]
    return (
        num_rows >= _LEAST_ROWS
        and width % HALF == 0
        and has_hopper_halves(x)
        and all(map(has_aligned_rows, (x, weight, out)))
        and pays(num_rows, in_features, width, num_processors(x.device))
    )


def pays(num_rows: int, in_features: int, width: int, processors: int) -> bool:
    """Whether whole tiles of many rows take no longer than the library's product, and SwiGLU's of half precision."""
    num_turns = -(-num_tiles(num_rows, 2 * width) // processors)
    in_turn = library_us(num_rows, in_features, 2 * width, processors) + 6 * num_rows * width / _BYTES_RATE
    return num_turns * tile_us(in_features) <= in_turn


def linear_silu_mul(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """`kernels.activation.linear_silu_mul` without a bias, of what suits."""
    num_rows, width = out.shape
    launch(
        kernel,
        (num_processors(x.device),),
        describe(out, TILE),
        describe(weight, HALF),
        describe(x, TILE),
        -(-num_rows // TILE),
        width // HALF,
        num_steps(x.shape[1]),
        num_rows - TILE,
        arrivals_of(x.device),
        **OPTIONS,
    )
