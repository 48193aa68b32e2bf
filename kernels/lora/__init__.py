"""LoRA over the page pool."""

from kernels.lora.batch import LoraBatch
from kernels.lora.op import mbgmm

__all__ = ["LoraBatch", "mbgmm"]
