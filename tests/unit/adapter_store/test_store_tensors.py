"""Safetensors files are read without trust."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors

from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterFileCorrupt,
    AdapterNotSafetensors,
    AdapterTooLarge,
    AdapterUnsupported,
    StoreError,
)
from adapter_store.peft import tensors as reader
from adapter_store.peft.tensors import Dtype, TensorFile
from tests.unit.adapter_store.peft_directories import adapter_tensors, to_safetensors

LIMITS = Limits(max_header_bytes=2000, max_tensors=20)


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


EIGHT = b"\0" * 8
BROKEN: dict[str, tuple[bytes, type[StoreError]]] = {
    "empty": (b"", AdapterFileCorrupt),
    "seven bytes": (b"\0" * 7, AdapterFileCorrupt),
    "header longer than file": (file_of({}, length=3), AdapterFileCorrupt),
    "header of 2**64-1": (file_of({}, length=2**64 - 1), AdapterFileCorrupt),
    "header too long": (file_of(b"{}" + b" " * 2000), AdapterTooLarge),
    "not JSON": (file_of(b"{"), AdapterFileCorrupt),
    "not UTF-8": (file_of(b'{"\xff": 1}'), AdapterFileCorrupt),
    "deep JSON": (file_of(b"[" * 1900), AdapterFileCorrupt),
    "a list": (file_of([]), AdapterFileCorrupt),
    "name twice": (
        file_of(b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", EIGHT),
        AdapterFileCorrupt,
    ),
    "entry no object": (file_of({"a": 1}), AdapterFileCorrupt),
    "entry with more": (file_of({"a": entry(more=1)}, EIGHT), AdapterFileCorrupt),
    "entry with less": (file_of({"a": {"dtype": "F32", "shape": []}}), AdapterFileCorrupt),
    "dtype no text": (file_of({"a": entry(dtype=["F32"])}, EIGHT), AdapterFileCorrupt),
    "shape no list": (file_of({"a": entry(shape=2)}, EIGHT), AdapterFileCorrupt),
    "negative shape": (file_of({"a": entry(shape=[-1, -2])}, EIGHT), AdapterFileCorrupt),
    "shape of floats": (file_of({"a": entry(shape=[2.0])}, EIGHT), AdapterFileCorrupt),
    "shape of flags": (file_of({"a": entry(shape=[True, 2])}, EIGHT), AdapterFileCorrupt),
    "huge shape": (file_of({"a": entry(shape=[1 << 47, 1 << 47])}, EIGHT), AdapterFileCorrupt),
    "nine dimensions": (file_of({"a": entry(shape=[1] * 8 + [2])}, EIGHT), AdapterFileCorrupt),
    "offsets backwards": (file_of({"a": entry(offsets=[8, 0])}, EIGHT), AdapterFileCorrupt),
    "three offsets": (file_of({"a": entry(offsets=[0, 8, 8])}, EIGHT), AdapterFileCorrupt),
    "length not of the shape": (file_of({"a": entry(shape=[3])}, EIGHT), AdapterFileCorrupt),
    "gap at the start": (file_of({"a": entry(offsets=[8, 16])}, EIGHT * 2), AdapterFileCorrupt),
    "gap": (file_of({"a": entry(), "b": entry(offsets=[16, 24])}, EIGHT * 3), AdapterFileCorrupt),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, EIGHT * 2), AdapterFileCorrupt),
    "same bytes": (file_of({"a": entry(), "b": entry()}, EIGHT), AdapterFileCorrupt),
    "truncated": (file_of({"a": entry()}, EIGHT[:7]), AdapterFileCorrupt),
    "more at the end": (file_of({"a": entry()}, EIGHT + b"\0"), AdapterFileCorrupt),
    "F64": (file_of({"a": entry(dtype="F64", shape=[1])}, EIGHT), AdapterUnsupported),
    "I8": (file_of({"a": entry(dtype="I8", shape=[8])}, EIGHT), AdapterUnsupported),
    "unheard of dtype": (file_of({"a": entry(dtype="F3")}, EIGHT), AdapterUnsupported),
    "too many tensors": (
        file_of({str(i): entry(shape=[], offsets=[4 * i, 4 * i + 4]) for i in range(21)}, b"\0" * 84),
        AdapterTooLarge,
    ),
    "zip archive": (b"PK\x03\x04" + b"\0" * 100, AdapterNotSafetensors),
    "pickle": (pickle.dumps({"a": list(range(100))}), AdapterNotSafetensors),
}


@pytest.mark.parametrize(("content", "error"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_file_is_refused(content: bytes, error: type[StoreError], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(error):
        TensorFile(file, LIMITS)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_reads_what_the_library_writes(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PIECE_BYTES", 64)  # pieces end inside tensors
    arrays = adapter_tensors(dtype=dtype)
    path = tmp_path / "file"
    path.write_bytes(to_safetensors(arrays))
    with path.open("rb") as file:
        read = TensorFile(file, Limits())
        assert read.tensors.keys() == arrays.keys()
        for name, info in read.tensors.items():
            assert info.shape == arrays[name].shape
            assert info.dtype is {"float32": Dtype.F32, "float16": Dtype.F16, "uint16": Dtype.BF16}[dtype]
            assert b"".join(map(bytes, read.pieces(info))) == arrays[name].tobytes()


def test_agrees_with_the_library_on_damaged_files(tmp_path: Path) -> None:
    """Whatever the library refuses is refused; what is accepted, the library reads alike."""
    source = random.Random(7)
    sound = to_safetensors({"a": np.ones((2, 3), np.float32), "b": np.ones((4,), np.float16)})
    path = tmp_path / "file"
    num_accepted = 0
    for _ in range(500):
        content = bytearray(sound)
        for _ in range(source.randint(1, 2)):
            content[source.randrange(len(content))] = source.choice(b'0123456789[],:"{}FB ' + bytes([255]))
        if source.random() < 0.2:
            del content[source.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            with path.open("rb") as file:
                read = TensorFile(file, LIMITS)
                found = {name: b"".join(map(bytes, read.pieces(info))) for name, info in read.tensors.items()}
        except StoreError:
            continue
        num_accepted += 1
        assert found == {name: bytes(entry["data"]) for name, entry in safetensors.deserialize(bytes(content))}
    assert num_accepted > 20
