"""Launch of the Hopper kernel, and what it takes."""

from typing import Any

from torch import Tensor
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.device import ALIGNMENT, has_hopper_halves, is_aligned, num_processors
from kernels.gluon import SWIZZLED
from kernels.launch import launch
from kernels.linear.kernel.hopper_linear import linear as kernel
from kernels.linear.kernel.tiles import HEIGHT, SLABS, WIDTH, Tiles


def suits(x: Tensor, weight: Tensor, tiles: Tiles) -> bool:
    """Whether the kernel takes these."""
    return (
        has_hopper_halves(x)
        and x.is_contiguous()
        and weight.shape[1] * weight.element_size() % (ALIGNMENT * tiles.parts) == 0
        and is_aligned(x)
        and is_aligned(weight)
    )


def multiply(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None, tiles: Tiles, *, chained: bool) -> None:
    """`kernels.linear.linear` for at least one row."""
    num_tiles = tiles.count(weight.shape[0])
    num_programs = min(num_tiles, num_processors(x.device))
    positional, options = arguments(x, weight, out, bias, tiles)
    launch(kernel, (num_programs,), *positional, **options, maxnreg=168, launch_pdl=chained)


def arguments(
    x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None, tiles: Tiles
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a kernel is told of a linear layer: its first arguments, and options."""
    out_features, in_features = weight.shape
    positional = (
        out,
        describe(weight, HEIGHT, tiles.parts),
        describe(x, tiles.rows * tiles.parts, tiles.parts),
        out if bias is None else bias,
        x.shape[0],
        tiles.count(out_features),
        -(-in_features // (tiles.parts * SLABS * WIDTH)),
        out_features,
        out.stride(0),
    )
    return positional, {
        "ROWS": tiles.rows,
        "PARTS": tiles.parts,
        "STAGES": tiles.stages,
        "HAS_BIAS": bias is not None,
        "num_warps": 4,
    }


def describe(matrix: Tensor, rows: int, parts: int = 1) -> TensorDescriptor:
    """A matrix with its rows cut in parts, if it is contiguous; so many of them are moved at once."""
    width = matrix.shape[1] // parts
    stride = width if matrix.is_contiguous() else matrix.stride(0)  # of a single row that is any number
    return TensorDescriptor(matrix, [matrix.shape[0] * parts, width], [stride, 1], [rows, WIDTH], SWIZZLED.value)
