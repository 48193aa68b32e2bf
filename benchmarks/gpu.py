"""The GPU that a benchmark ran on."""

import platform
from importlib.metadata import version
from importlib.util import find_spec

import torch
import triton

from benchmarks import result


def word() -> str:
    """The GPU's model, as a word: h200."""
    words = torch.cuda.get_device_name().removeprefix("NVIDIA ").split()
    return words[0].lower()


def machine(commit: str | None) -> dict[str, object]:
    """The GPU, the versions, and the commit: `commit`, or the tree's own."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("transformers", "peft") if find_spec(name) is not None},
        "commit": commit or result.commit(),
    }
