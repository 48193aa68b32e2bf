"""What stands between the gate and up projections and the down projection."""

from kernels.activation.op import silu_mul

__all__ = ["silu_mul"]
