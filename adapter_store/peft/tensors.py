"""Safetensors files, read without trust: the header is checked before anything is allocated for the data."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any, BinaryIO, NoReturn

from adapter_store.config import Limits
from adapter_store.errors import AdapterFileCorrupt, AdapterNotSafetensors, AdapterTooLarge, AdapterUnsupported

WEIGHTS_NAME = "adapter_model.safetensors"
PIECE_BYTES = 1 << 20
_LENGTH_BYTES = 8
# First bytes of what torch.save has written over time: a zip archive, or a bare pickle of protocol 2 to 5.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Dtype(Enum):
    """Element types of adapters; the value is safetensors' name."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"

    @property
    def num_bytes(self) -> int:
        """Bytes of an element."""
        return 4 if self is Dtype.F32 else 2


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor in a file; `start` is its first byte in the file."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    start: int

    @property
    def num_elements(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        return self.num_elements * self.dtype.num_bytes


class TensorFile:
    """An open safetensors file whose header was found sound.

    The header is a JSON object of at most `limits.max_header_bytes`; every tensor has a known dtype and the length that
    its shape asks for; the tensors cover the data without gap or overlap, and the file ends with the last of them.
    """

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        """Checks the header of `file`, which must stay open as long as this object is used.

        Raises:
            AdapterNotSafetensors: It is a pickle.
            AdapterFileCorrupt: It is not a sound safetensors file, or is truncated.
            AdapterTooLarge: It exceeds a limit.
            AdapterUnsupported: A tensor has another dtype than F32, F16 or BF16.
        """
        self._file = file
        self.tensors: Mapping[str, TensorInfo] = _read_tensors(file, limits)

    def pieces(self, tensor: TensorInfo) -> Iterator[memoryview]:
        """The tensor's bytes in order, at most `PIECE_BYTES` at a time; a piece is valid until the next."""
        buffer = memoryview(bytearray(min(PIECE_BYTES, tensor.num_bytes)))
        self._file.seek(tensor.start)
        left = tensor.num_bytes
        while left:
            piece = buffer[: min(left, len(buffer))]
            if self._file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                _corrupt(f"{tensor.name} is cut off")
            left -= len(piece)
            yield piece


def _read_tensors(file: BinaryIO, limits: Limits) -> dict[str, TensorInfo]:
    file_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    start = file.read(_LENGTH_BYTES)
    if start.startswith(_PICKLE_STARTS):
        raise AdapterNotSafetensors(
            f"{WEIGHTS_NAME} is a pickle under another name; save the adapter with safe_serialization=True"
        )
    header_bytes = int.from_bytes(start, "little")
    if len(start) < _LENGTH_BYTES or header_bytes > file_bytes - _LENGTH_BYTES:
        _corrupt("it is shorter than its header says")
    if header_bytes > limits.max_header_bytes:
        raise AdapterTooLarge(
            f"{WEIGHTS_NAME} has a header of {header_bytes} bytes, more than the {limits.max_header_bytes} allowed",
            field="limits.max_header_bytes",
        )
    entries = _parse_header(file.read(header_bytes))
    if len(entries) > limits.max_tensors:
        raise AdapterTooLarge(
            f"{WEIGHTS_NAME} has {len(entries)} tensors, more than the {limits.max_tensors} allowed",
            field="limits.max_tensors",
        )
    data_start = _LENGTH_BYTES + header_bytes
    tensors = [_tensor(name, entry, data_start) for name, entry in entries.items()]
    _require_contiguous(tensors, data_start, file_bytes)
    return {tensor.name: tensor for tensor in tensors}


def _parse_header(header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError):
        _corrupt("its header is not JSON")
    if not isinstance(entries, dict):
        _corrupt("its header is not an object")
    entries.pop("__metadata__", None)
    return entries


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        _corrupt("its header names something twice")
    return values


def _tensor(name: str, entry: Any, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _corrupt(f"the header's entry of {name!r} is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_are_counts(shape) and len(shape) <= 8 and _are_counts(offsets) and len(offsets) == 2):
        _corrupt(f"the header's entry of {name!r} is malformed")
    if not isinstance(dtype, str):
        _corrupt(f"the header's entry of {name!r} is malformed")
    if dtype not in Dtype.__members__:
        raise AdapterUnsupported(f"{name} has dtype {dtype!r}; save the adapter as F32, F16 or BF16", field=name)
    tensor = TensorInfo(name, Dtype[dtype], tuple(shape), data_start + offsets[0])
    if offsets[1] - offsets[0] != tensor.num_bytes:
        _corrupt(f"{name!r} does not have the length of its shape {list(shape)}")
    return tensor


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48 for value in values
    )


def _require_contiguous(tensors: list[TensorInfo], data_start: int, file_bytes: int) -> None:
    end = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.num_bytes)):
        if tensor.start != end:
            _corrupt(f"{tensor.name!r} does not begin where the tensor before it ends")
        end += tensor.num_bytes
    if end > file_bytes:
        _corrupt(f"it is truncated: {file_bytes} bytes of {end}")
    if end < file_bytes:
        _corrupt(f"{file_bytes - end} bytes at its end belong to no tensor")


def _corrupt(what: str) -> NoReturn:
    raise AdapterFileCorrupt(f"{WEIGHTS_NAME} is not a sound safetensors file: {what}; save or upload it again")
