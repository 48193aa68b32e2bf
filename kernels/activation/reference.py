"""SwiGLU's product in torch."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def silu_mul(gate_up: Tensor, out: Tensor | None = None) -> Tensor:
    """As `kernels.activation.silu_mul`."""
    gate, up = gate_up.chunk(2, 1)
    return torch.mul(silu(gate), up, out=out)
