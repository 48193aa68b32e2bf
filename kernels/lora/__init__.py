"""LoRA over the page pool."""

from kernels.lora.batch import LoraBatch
from kernels.lora.directory import LoraDirectory
from kernels.lora.op import mbgmm

__all__ = ["LoraBatch", "LoraDirectory", "mbgmm"]
