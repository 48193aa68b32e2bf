"""LoRA over the page pool."""

from kernels.lora.batch import LoraBatch
from kernels.lora.delta import LoraDelta
from kernels.lora.directory import LoraDirectory
from kernels.lora.op import expand, linear_and_shrink, mbgmm, shrink

__all__ = ["LoraBatch", "LoraDelta", "LoraDirectory", "expand", "linear_and_shrink", "mbgmm", "shrink"]
