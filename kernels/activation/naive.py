"""SwiGLU's product as its formula reads, in float64: what every implementation is measured against."""

from torch import Tensor


def silu_mul(gate_up: Tensor) -> Tensor:
    """As `kernels.activation.silu_mul`, in float64 and without a rounding."""
    width = gate_up.shape[1] // 2
    gate, up = gate_up[:, :width].double(), gate_up[:, width:].double()
    return gate / (1 + (-gate).exp()) * up
