"""Queries, keys and values of a batch, turned by the kernels as one call of a layer does."""

import torch
from torch import Tensor

from kernels.lora import LoraDelta
from kernels.rope.kernel import angles, rotate_and_write
from worker.memory.layout import PageGeometry

EPSILON = 1e-5


def rotate(
    qkv: Tensor,
    slots: Tensor,
    pages: Tensor,
    geometry: PageGeometry,
    head_norm: Tensor | None = None,
    delta: LoraDelta | None = None,
) -> Tensor:
    """Row `t` is at position `t`; gives the queries."""
    shape = geometry.shape
    frequencies = 10000.0 ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim).to(qkv.device)
    return rotate_and_write(
        qkv,
        angles(torch.arange(qkv.shape[0], device=qkv.device), frequencies, 1.0, qkv.dtype),
        pages,
        slots,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        block_size=geometry.block_size,
        head_norm=head_norm,
        epsilon=EPSILON,
        delta=delta,
    )
