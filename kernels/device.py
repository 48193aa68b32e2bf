"""Which implementation of an op runs, the Triton kernel on a GPU, the torch reference elsewhere; and what a GPU has."""

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, of wide accesses and of where TMA's rows begin


@cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether a GPU runs what is made for Hopper alone."""
    return torch.cuda.get_device_capability(device)[0] == 9


def has_hopper_halves(tensor: Tensor) -> bool:
    """Whether a tensor is of what kernels made for Hopper take: half precision on such a GPU."""
    is_half = tensor.dtype in (torch.bfloat16, torch.float16)
    return is_half and tensor.device.type == "cuda" and is_hopper(tensor.device)


def is_aligned(tensor: Tensor) -> bool:
    """Whether it begins where the widest accesses of a thread may, and TMA's."""
    return tensor.data_ptr() % ALIGNMENT == 0


@cache
def kernel_of(op: str) -> Any:
    """The module `kernels.<op>.kernel`, imported on first use: a worker on a CPU never imports Triton."""
    return import_module(f"kernels.{op}.kernel")
