"""From logits to tokens, for rows with different parameters."""

from kernels.sampling.batch import Choices, Penalties
from kernels.sampling.op import sample

__all__ = ["Choices", "Penalties", "sample"]
