"""SwiGLU's product in torch."""

import torch
from torch import Tensor
from torch.nn.functional import silu

from kernels.lora.delta import LoraDelta
from kernels.lora.reference import expand


def silu_mul(gate_up: Tensor, out: Tensor | None = None, delta: LoraDelta | None = None) -> Tensor:
    """As `kernels.activation.silu_mul`."""
    if delta is not None:
        expand(delta)
    gate, up = gate_up.chunk(2, 1)
    return torch.mul(silu(gate), up, out=out)
