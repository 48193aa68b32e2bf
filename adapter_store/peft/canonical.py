"""The one form in which weights are stored: the same adapter always gives the same bytes, and so the same digest.

The file is safetensors, as FetchWeights in adapter.proto describes it. Tensors keep their dtype; they lie in order of
falling element size (so that each is aligned), then layer, module, A before B.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from adapter_store.peft.tensors import TensorFile, TensorInfo
from adapter_store.peft.validate import Matrices, require_finite
from adapter_store.types import MODULES, BaseModel, Module

FORMAT = 1
_ALIGNMENT = 8


class Sink(Protocol):
    """Where canonical bytes go."""

    def write(self, data: bytes | memoryview, /) -> object:
        """Takes the next bytes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a catalog wants to know of an adapter's weights."""

    rank: int
    target_modules: tuple[Module, ...]
    parameter_count: int


def write_canonical(source: TensorFile, matrices: Sequence[Matrices], model: BaseModel, sink: Sink) -> Facts:
    """Writes the canonical file, one piece of a tensor in memory at a time.

    Raises:
        AdapterNotFinite: A weight is NaN or infinite; `sink` then holds a part.
    """
    named = [
        (f"{m.delta.site}.{half}", tensor)
        for m in _ordered(matrices)
        for half, tensor in (("lora_A", m.a), ("lora_B", m.b))
    ]
    named.sort(key=lambda entry: -entry[1].dtype.num_bytes)  # stable
    sink.write(_header(named, matrices, model))
    for _, tensor in named:
        for piece in source.pieces(tensor):
            require_finite(tensor, piece)
            sink.write(piece)
    targeted = {m.delta.site.module for m in matrices}
    return Facts(
        rank=max(m.delta.rank for m in matrices),
        target_modules=tuple(module for module in MODULES if module in targeted),
        parameter_count=sum(tensor.num_elements for _, tensor in named),
    )


def _ordered(matrices: Sequence[Matrices]) -> list[Matrices]:
    return sorted(matrices, key=lambda m: (m.delta.site.layer, MODULES.index(m.delta.site.module)))


def _header(named: Sequence[tuple[str, TensorInfo]], matrices: Sequence[Matrices], model: BaseModel) -> bytes:
    meaning = {
        "format": FORMAT,
        "base_model": model.name,
        "scales": {str(m.delta.site): m.delta.scale for m in _ordered(matrices)},
    }
    header: dict[str, Any] = {"__metadata__": {"multitude": _json(meaning)}}
    end = 0
    for name, tensor in named:
        start, end = end, end + tensor.num_bytes
        header[name] = {"dtype": tensor.dtype.value, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = _json(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    return len(encoded).to_bytes(8, "little") + encoded


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
