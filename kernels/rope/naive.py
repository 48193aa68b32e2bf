"""Rotary positions as their formula reads, row by row in float64: what every implementation is measured against."""

import torch
from torch import Tensor

from kernels.norm.naive import rms_norm


def angles(positions: Tensor, frequencies: Tensor, amplitude: float) -> tuple[Tensor, Tensor]:
    """As `kernels.rope.angles`, of the same float32 angles, in float64 and without a rounding."""
    turned = (positions[:, None].float() * frequencies).double()
    cosines, sines = amplitude * turned.cos(), amplitude * turned.sin()
    return torch.cat((cosines, cosines), 1).unsqueeze(1), torch.cat((-sines, sines), 1).unsqueeze(1)


def rotated(
    qkv: Tensor,
    turns: tuple[Tensor, Tensor],
    *,
    num_heads: int,
    num_kv_heads: int,
    head_norm: Tensor | None = None,
    epsilon: float = 0.0,
) -> Tensor:
    """Every head of every row after its rotation, `[num_rows, num_heads + 2 * num_kv_heads, head_dim]` float64."""
    heads: Tensor = qkv.unflatten(1, (num_heads + 2 * num_kv_heads, -1)).double()
    half = heads.shape[2] // 2
    for row in range(heads.shape[0]):
        for head in range(num_heads + num_kv_heads):
            values = heads[row, head]
            if head_norm is not None:
                values = rms_norm(values[None], head_norm[head], epsilon)[0]
            cosines, sines = turns[0][row, 0].double(), turns[1][row, 0].double()
            heads[row, head] = values * cosines + torch.cat((values[half:], values[:half])) * sines
    return heads
