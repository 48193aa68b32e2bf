"""What stands between the gate and up projections and the down projection."""

from kernels.activation.op import linear_silu_mul, silu_mul

__all__ = ["linear_silu_mul", "silu_mul"]
