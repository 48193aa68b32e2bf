"""Arrays on their way between the host and the model's device."""

from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 16  # bytes; kernels are compiled for pointers of this alignment, and again for any other


def joined(arrays: Iterable["array[int]"], dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    """The ids of all arrays, one array after the other; `dtype` is theirs."""
    return np.frombuffer(bytearray().join(arrays), dtype=dtype)


def to_device(sources: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Tensors of the same shapes and types on `device`, in one copy; on a CPU they share the sources' memory.

    Args:
        sources: Arrays of any types.
        device: Where they go.
    """
    if device.type == "cpu":
        return [torch.from_numpy(source) for source in sources]
    starts, num_bytes = _places(sources)
    staged = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
    buffer = staged.numpy()
    for source, start in zip(sources, starts, strict=True):
        buffer[start : start + source.nbytes] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
    moved = staged.to(device, non_blocking=True)
    return [
        moved[start : start + source.nbytes].view(torch.from_numpy(source).dtype).view(source.shape)
        for source, start in zip(sources, starts, strict=True)
    ]


def _places(sources: Sequence[NDArray[Any]]) -> tuple[list[int], int]:
    sizes = [-(-source.nbytes // _ALIGNMENT) * _ALIGNMENT for source in sources]
    *starts, num_bytes = 0, *accumulate(sizes)
    return starts, num_bytes


class HostCopy:
    """A tensor on its way to the host; nobody waits before its values are asked for."""

    def __init__(self, source: Tensor) -> None:
        self._there = source
        self._arrived: torch.cuda.Event | None = None
        if source.device.type != "cpu":
            self._there = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            self._there.copy_(source, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def values(self) -> list[Any]:
        """The tensor as nested lists, once all that was queued on the device before it is done."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[Any] = self._there.tolist()
        return values
