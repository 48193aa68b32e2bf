"""The tensors of a model directory: one safetensors file, or shards with an index. Never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.model.errors import ModelNotFound, ModelUnsupported, ModelWeightsInvalid

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16")
_NAMES_SHOWN = 8


class Checkpoint:
    """A directory's tensors by name; headers are read at once, a tensor when it is asked for.

    Raises:
        ModelNotFound: no safetensors.
        ModelUnsupported: tensors of a type that is not a plain floating-point one.
        ModelWeightsInvalid: a file is damaged, or is not what the index says.
    """

    def __init__(self, directory: Path) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Any] = {}
        index = _read_index(directory / _INDEX)
        for file_name in sorted(set(index.values())) if index else [_SINGLE]:
            self._add(directory, file_name)
        if strays := [name for name in index if name not in self._shapes]:
            raise ModelWeightsInvalid(f"{_INDEX} names tensors that are in no file: {listed(strays)}")

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape."""
        return self._shapes

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, in the type of the file."""
        try:
            tensor: Tensor = self._file_of[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelWeightsInvalid(f"{name} cannot be read: {error}") from error
        return tensor

    def _add(self, directory: Path, file_name: str) -> None:
        path = directory / file_name
        if not path.is_file():
            pickles = sorted(found.name for pattern in ("*.bin", "*.pt", "*.pth") for found in directory.glob(pattern))
            hint = f"; {pickles[0]} is not safetensors: convert it with save_pretrained" if pickles else ""
            raise ModelNotFound(f"{directory} has no {file_name}{hint}")
        try:
            opened: Any = safe_open(path, framework="pt")
            names: list[str] = list(opened.keys())
            headers = {name: opened.get_slice(name) for name in names}
            dtypes = {name: header.get_dtype() for name, header in headers.items()}
        except (SafetensorError, OSError) as error:
            raise ModelWeightsInvalid(f"{file_name} is damaged: {error}; copy it again") from error
        if odd := [f"{name} ({dtype})" for name, dtype in dtypes.items() if dtype not in _DTYPES]:
            raise ModelUnsupported(
                f"{file_name}: tensors of a type other than {', '.join(_DTYPES)} (quantized?): {listed(odd)}"
            )
        if twice := [name for name in names if name in self._shapes]:
            raise ModelWeightsInvalid(f"{file_name} has tensors that another file has too: {listed(twice)}")
        for name, header in headers.items():
            self._shapes[name] = tuple(header.get_shape())
            self._file_of[name] = opened


def listed(names: list[str]) -> str:
    """Names for a message: the first few, and how many more."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _read_index(path: Path) -> Mapping[str, str]:
    """Tensor name to file name; empty if the directory has no index."""
    if not path.exists():
        return {}
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelWeightsInvalid(f"{_INDEX} cannot be read: {error!r}") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelWeightsInvalid(f"{_INDEX} has no weight_map")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ModelWeightsInvalid(f"{_INDEX} names {file_name!r}, which is not a file of this directory")
    return weight_map
