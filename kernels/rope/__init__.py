"""Rotary positions, and what goes with them: the norm of heads before, the write of keys and values after."""

from kernels.rope.op import angles, rotate_and_write

__all__ = ["angles", "rotate_and_write"]
