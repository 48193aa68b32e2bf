"""RMSNorm in torch."""

import torch
from torch import Tensor
from torch.nn import functional

from kernels.lora.delta import LoraDelta
from kernels.lora.reference import expand


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """As `kernels.norm.rms_norm`, over the last dimension of any shape."""
    normed = functional.rms_norm(x.float(), x.shape[-1:], None, epsilon).to(x.dtype)
    return torch.mul(normed, weight, out=out)


def add_rms_norm(
    hidden: Tensor,
    update: Tensor,
    weight: Tensor,
    epsilon: float,
    out: Tensor | None = None,
    delta: LoraDelta | None = None,
) -> Tensor:
    """As `kernels.norm.add_rms_norm`."""
    if delta is not None:
        expand(delta)
    hidden += update
    return rms_norm(hidden, weight, epsilon, out)


def gather_rms_norm(
    hidden: Tensor, update: Tensor, rows: Tensor, weight: Tensor, epsilon: float, delta: LoraDelta | None = None
) -> Tensor:
    """As `kernels.norm.gather_rms_norm`."""
    if delta is not None:
        expand(delta)
    wanted = hidden.index_select(0, rows)
    wanted += update.index_select(0, rows)
    return rms_norm(wanted, weight, epsilon)
