"""Weights that mean nothing, for measuring speed: a model's shape without its files."""

from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

_STD = 0.02


class DummyCheckpoint:
    """Tensors of the given shapes, made when they are asked for: norms of ones, all others normal with deviation 0.02.

    A tensor depends on its name and shape alone, so two workers with the same model have the same weights if their
    devices are of one type.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> None:
        self.shapes = shapes
        self._dtype = dtype
        self._device = device

    def read(self, name: str) -> Tensor:
        """One tensor, on the device."""
        shape = self.shapes[name]
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        generator = torch.Generator(self._device).manual_seed(crc32(name.encode()))
        made = torch.empty(shape, dtype=self._dtype, device=self._device)
        return made.normal_(0.0, _STD, generator=generator)
