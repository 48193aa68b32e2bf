"""Rotary positions in torch."""

import torch
from torch import Tensor

from kernels.lora.delta import LoraDelta
from kernels.lora.reference import expand
from kernels.norm.reference import rms_norm
from kernels.paging.reference import write_kv


def angles(positions: Tensor, frequencies: Tensor, amplitude: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `kernels.rope.angles`."""
    turned = positions.unsqueeze(1).float() * frequencies
    cosines = (turned.cos() * amplitude).to(dtype)
    sines = (turned.sin() * amplitude).to(dtype)
    return torch.cat((cosines, cosines), 1).unsqueeze(1), torch.cat((-sines, sines), 1).unsqueeze(1)


def turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates `x`, `[num_rows, heads, head_dim]`; returns a new tensor."""
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat((second, first), -1) * sines


def rotate_and_write(
    qkv: Tensor,
    turns: tuple[Tensor, Tensor],
    pages: Tensor,
    slots: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    block_size: int,
    head_norm: Tensor | None = None,
    epsilon: float = 0.0,
    delta: LoraDelta | None = None,
) -> Tensor:
    """As `kernels.rope.rotate_and_write`."""
    if delta is not None:
        expand(delta)
    num_rotated = num_heads + num_kv_heads
    heads = qkv.unflatten(1, (num_rotated + num_kv_heads, -1))
    rotated = heads[:, :num_rotated]
    if head_norm is not None:
        rotated = rms_norm(rotated, head_norm, epsilon)
    rotated = turn(rotated, *turns)
    write_kv(pages, rotated[:, num_heads:], heads[:, num_rotated:], slots, block_size)
    return rotated[:, :num_heads]
