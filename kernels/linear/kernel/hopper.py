"""Launch of the Hopper kernel, and what it takes."""

from typing import Any

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.device import is_hopper, num_processors
from kernels.launch import launch
from kernels.linear.kernel.hopper_linear import linear as kernel
from kernels.linear.kernel.tiles import HEIGHT, SLABS, WIDTH, Tiles

ALIGNMENT = 16  # bytes, of where TMA's rows begin


def suits(x: Tensor, weight: Tensor, tiles: Tiles) -> bool:
    """Whether the kernel takes these."""
    return (
        x.device.type == "cuda"
        and is_hopper(x.device)
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.is_contiguous()
        and weight.shape[1] * weight.element_size() % (ALIGNMENT * tiles.parts) == 0
        and x.data_ptr() % ALIGNMENT == 0
        and weight.data_ptr() % ALIGNMENT == 0
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
        _describe(weight, tiles.parts, HEIGHT),
        _describe(x, tiles.parts, tiles.rows * tiles.parts),
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


def _describe(matrix: Tensor, parts: int, rows: int) -> TensorDescriptor:
    """A matrix with its rows cut in parts, so many of which are fetched at once."""
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    width = matrix.shape[1] // parts
    return TensorDescriptor(matrix, [matrix.shape[0] * parts, width], [width, 1], [rows, WIDTH], layout)
