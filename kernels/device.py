"""Which implementation of an op runs, the Triton kernel on a GPU, the torch reference elsewhere; and what a GPU has."""

from functools import cache
from importlib import import_module
from typing import Any

import torch


@cache
def num_processors(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether a GPU runs what is made for Hopper alone."""
    return torch.cuda.get_device_capability(device)[0] == 9


@cache
def kernel_of(op: str) -> Any:
    """The module `kernels.<op>.kernel`, imported on first use: a worker on a CPU never imports Triton."""
    return import_module(f"kernels.{op}.kernel")
