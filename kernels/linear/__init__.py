"""A linear layer of a step."""

from kernels.linear.op import linear

__all__ = ["linear"]
