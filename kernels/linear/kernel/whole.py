"""Products of many rows in whole tiles on Hopper GPUs: what their launches share, and what they take."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.device import ALIGNMENT, is_aligned
from kernels.linear.kernel.hopper import describe
from kernels.linear.kernel.hopper_product import STEP, TILE

OPTIONS = {"num_warps": 4, "maxnreg": 168}  # of every kernel that multiplies in such tiles
# Operations a us of a processor, in such tiles and in the vendor's library, measured on an H200.
_TILES_RATE, _LIBRARY_RATE = 5.3e6, 5.0e6


def product_arguments(
    x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None
) -> tuple[tuple[Any, ...], dict[str, int | bool]]:
    """What a kernel is told of a product: its first arguments, and options."""
    out_features, in_features = weight.shape
    positional = (
        describe(out, TILE),
        describe(weight, TILE),
        describe(x, TILE),
        out if bias is None else bias,
        -(-x.shape[0] // TILE),
        -(-out_features // TILE),
        num_steps(in_features),
        out_features,
    )
    return positional, {"HAS_BIAS": bias is not None, **OPTIONS}


def num_tiles(num_rows: int, out_features: int) -> int:
    """Tiles of a product."""
    return -(-num_rows // TILE) * -(-out_features // TILE)


def num_steps(in_features: int) -> int:
    """Steps of a tile."""
    return -(-in_features // STEP)


def tile_us(in_features: int) -> float:
    """What a tile takes a program."""
    return 2.0 * TILE * TILE * in_features / _TILES_RATE


def library_us(num_rows: int, in_features: int, out_features: int, processors: int) -> float:
    """What a product takes the library."""
    return 2.0 * num_rows * in_features * out_features / (_LIBRARY_RATE * processors)


def has_aligned_rows(matrix: Tensor) -> bool:
    """Whether its rows begin where TMA takes them."""
    row_bytes = matrix.stride(0) * matrix.element_size()
    return matrix.stride(1) == 1 and row_bytes % ALIGNMENT == 0 and is_aligned(matrix)


@cache
def arrivals_of(device: torch.device) -> Tensor:
    """`[1]` int64, where the programs of a launch meet, one for each processor; of launches at once all may be late.

    Raises:
        RuntimeError: asked for the first time while a graph is recorded, which would take it for its own.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"launch a product in whole tiles on {device} once before one is recorded")
    with torch.inference_mode(mode=False):
        return torch.zeros(1, dtype=torch.int64, device=device)
