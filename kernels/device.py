"""Which implementation of an op runs: the Triton kernel on a GPU, the torch reference elsewhere."""

from functools import cache
from importlib import import_module
from typing import Any


@cache
def kernel_of(op: str) -> Any:
    """The module `kernels.<op>.kernel`, imported on first use: a worker on a CPU never imports Triton."""
    return import_module(f"kernels.{op}.kernel")
