"""From logits to tokens, for rows with different parameters."""

from kernels.sampling.draw import draw
from kernels.sampling.penalties import apply_penalties
from kernels.sampling.truncation import scale, truncate

__all__ = ["apply_penalties", "draw", "scale", "truncate"]
