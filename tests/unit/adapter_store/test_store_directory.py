"""A PEFT directory is taken as it is meant, or refused with a reason; its canonical form is deterministic."""

import hashlib
import io
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterConfigInvalid,
    AdapterNotFinite,
    AdapterShapeMismatch,
    AdapterTensorMissing,
    AdapterTensorUnexpected,
    AdapterTooLarge,
    AdapterUnsupported,
    BaseModelMismatch,
    StoreError,
)
from adapter_store.peft import tensors as reader
from adapter_store.peft.canonical import Facts
from adapter_store.peft.directory import canonicalise
from adapter_store.types import BaseModel, Module
from tests.unit.adapter_store.peft_directories import (
    MODEL,
    SHAPE,
    adapter_config,
    adapter_tensors,
    read_canonical,
    tensor_name,
    to_safetensors,
    write_directory,
)


def canonical(folder: Path, base_model: str = "", limits: Limits | None = None) -> tuple[Facts, bytes]:
    sink = io.BytesIO()
    facts = canonicalise(folder, MODEL, base_model, limits or Limits(), sink)
    return facts, sink.getvalue()


Q0 = tensor_name(0, Module.Q, "A")
B0 = tensor_name(0, Module.Q, "B")


def changed(**arrays: Any) -> dict[str, np.ndarray]:
    """The sound tensors with `A` and `B` of layer 0's q replaced, or removed if None."""
    tensors = adapter_tensors()
    for half, array in arrays.items():
        name = tensor_name(0, Module.Q, half)
        if array is None:
            del tensors[name]
        else:
            tensors[name] = np.asarray(array, dtype=np.float32)
    return tensors


def with_extra(name: str, shape: tuple[int, ...] = (4, 16)) -> dict[str, np.ndarray]:
    return {**adapter_tensors(), name: np.zeros(shape, np.float32)}


WRONG_TENSORS: dict[str, tuple[dict[str, np.ndarray], type[StoreError], str]] = {
    "A missing": (changed(A=None), AdapterTensorMissing, "lora_A of layers.0.q"),
    "B missing": (changed(B=None), AdapterTensorMissing, "lora_B of layers.0.q"),
    "both missing": (changed(A=None, B=None), AdapterTensorMissing, "lora_A and lora_B of layers.0.q"),
    "no tensor": ({}, AdapterTensorMissing, "lora_A and lora_B"),
    "rank of A": (changed(A=np.zeros((5, 16))), AdapterShapeMismatch, "[4, 16]"),
    "rank of B": (changed(B=np.zeros((24, 5))), AdapterShapeMismatch, "[24, 4]"),
    "input width": (changed(A=np.zeros((4, 17))), AdapterShapeMismatch, "[4, 16]"),
    "output width": (changed(B=np.zeros((23, 4))), AdapterShapeMismatch, "[24, 4]"),
    "transposed": (changed(A=np.zeros((16, 4))), AdapterShapeMismatch, "[4, 16]"),
    "one dimension": (changed(A=np.zeros(64)), AdapterShapeMismatch, "[4, 16]"),
    "empty": (changed(A=np.zeros((0, 16))), AdapterShapeMismatch, "[4, 16]"),
    "not targeted": (with_extra(tensor_name(0, Module.K, "A")), AdapterTensorUnexpected, "does not target"),
    "layer too many": (with_extra(tensor_name(3, Module.Q, "A")), AdapterTensorUnexpected, "3 layers"),
    "layer 00": (with_extra(Q0.replace(".0.", ".00.")), AdapterTensorUnexpected, "not expected"),
    "same twice": (with_extra(Q0.replace(".weight", ".default.weight")), AdapterTensorUnexpected, "keep one"),
    "without prefix": (with_extra(Q0.removeprefix("base_model.model.")), AdapterTensorUnexpected, "not expected"),
    "other module": (with_extra(Q0.replace("q_proj", "z_proj")), AdapterTensorUnexpected, "not expected"),
    "stranger": (with_extra("stranger"), AdapterTensorUnexpected, "stranger"),
    "surrogate": (with_extra("\\ud800"), AdapterTensorUnexpected, "not expected"),
    "long name": (with_extra("x" * 5000), AdapterTensorUnexpected, "x..."),
    "DoRA": (with_extra(Q0.replace("lora_A.weight", "lora_magnitude_vector"), (24,)), AdapterUnsupported, "DoRA"),
    "embedding": (with_extra("base_model.model.model.embed_tokens.lora_embedding_A"), AdapterUnsupported, "embedding"),
    "saved embedding": (with_extra("base_model.model.model.embed_tokens.weight"), AdapterUnsupported, "embedding"),
    "lm_head": (with_extra("base_model.model.lm_head.weight"), AdapterUnsupported, "output layer"),
    "bias": (with_extra(B0.replace("weight", "bias"), (24,)), AdapterUnsupported, "bias"),
}


@pytest.mark.parametrize(("tensors", "error", "word"), WRONG_TENSORS.values(), ids=WRONG_TENSORS.keys())
def test_wrong_tensors_are_refused(
    tensors: dict[str, np.ndarray], error: type[StoreError], word: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        canonical(write_directory(tmp_path, tensors=tensors))
    assert word in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("half", ["A", "B"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf"])
@pytest.mark.parametrize("position", [0, -1])
def test_not_finite_is_refused(half: str, dtype: str, value: str, position: int, tmp_path: Path) -> None:
    if dtype == "bfloat16":
        tensors = bfloat16(adapter_tensors())
        bits = struct.unpack("<I", struct.pack("<f", float(value)))[0] >> 16
        tensors[tensor_name(2, Module.V, half)].reshape(-1)[position] = bits
    else:
        tensors = adapter_tensors(dtype=dtype)
        tensors[tensor_name(2, Module.V, half)].reshape(-1)[position] = float(value)
    with pytest.raises(AdapterNotFinite, match=r"layers\.2"):
        canonical(write_directory(tmp_path, tensors=tensors))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_largest_and_smallest_numbers_are_finite(dtype: str, tmp_path: Path) -> None:
    tensors = adapter_tensors(dtype=dtype)
    limits = np.finfo(dtype)
    tensors[Q0].reshape(-1)[:4] = [limits.max, limits.min, limits.smallest_subnormal, -0.0]
    canonical(write_directory(tmp_path, tensors=tensors))


def bfloat16(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in tensors.items()}


def test_canonical_file_holds_what_the_directory_means(tmp_path: Path) -> None:
    modules = {(2, Module.DOWN): 3, (0, Module.DOWN): 3, (0, Module.O): 5, (2, Module.O): 5}
    tensors = adapter_tensors(modules)
    config = adapter_config(
        r=3,
        lora_alpha=6,
        target_modules=["o_proj", "down_proj"],
        rank_pattern={"o_proj": 5},
        layers_to_transform=[0, 2],
    )
    facts, content = canonical(write_directory(tmp_path, config, tensors))
    meaning, stored = read_canonical(content)
    assert meaning == {
        "format": 1,
        "base_model": "demo",
        "scales": {"layers.0.o": 6 / 5, "layers.0.down": 2.0, "layers.2.o": 6 / 5, "layers.2.down": 2.0},
    }
    assert stored.keys() == {f"{site}.lora_{half}" for site in meaning["scales"] for half in "AB"}
    for layer, module in modules:
        for half in "AB":
            source = tensors[tensor_name(layer, module, half)]
            assert stored[f"layers.{layer}.{module.value}.lora_{half}"] == (
                "F32",
                list(source.shape),
                source.tobytes(),
            )
    assert facts == Facts(5, (Module.O, Module.DOWN), sum(array.size for array in tensors.values()))


def test_canonical_bytes_do_not_change(tmp_path: Path) -> None:
    """Workers and stores of other versions know adapters by this digest."""
    tensors = {name: np.full_like(array, 0.5) for name, array in adapter_tensors().items()}
    _, content = canonical(write_directory(tmp_path, tensors=tensors))
    assert hashlib.sha256(content).hexdigest() == "ba481f7fc21ec96a89e695b98d592ae3196b5afefa69eecfa8149bfdce42662f"


def test_same_adapter_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = adapter_tensors()
    _, expected = canonical(write_directory(tmp_path / "a", tensors=tensors))
    backwards = dict(reversed(tensors.items()))
    named = {name.replace(".weight", ".default.weight"): array for name, array in tensors.items()}
    config = {**dict(reversed(adapter_config().items())), "peft_version": "0.1", "lora_dropout": 0.5}
    assert canonical(write_directory(tmp_path / "b", tensors=shuffled_file(backwards)))[1] == expected
    assert canonical(write_directory(tmp_path / "c", tensors=named))[1] == expected
    assert canonical(write_directory(tmp_path / "d", config))[1] == expected
    assert canonical(write_directory(tmp_path / "e", adapter_config(lora_alpha=9)))[1] != expected


def shuffled_file(tensors: dict[str, np.ndarray]) -> bytes:
    """A safetensors file with its tensors in the given order, and metadata."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"data_offsets": offsets, "shape": array.shape, "dtype": "F32"}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "mixed"])
def test_dtypes_are_kept(dtype: str, tmp_path: Path) -> None:
    modules = {(layer, module): 1 for layer in range(3) for module in (Module.Q, Module.V)}  # odd numbers of elements
    single = adapter_tensors(modules)
    half = {name: array.astype(np.float16) for name, array in single.items()}
    brain = bfloat16(single)
    kinds = {"F32": [single], "F16": [half], "BF16": [brain], "mixed": [half, single, brain]}[dtype]
    tensors = {name: kinds[i % len(kinds)][name] for i, name in enumerate(single)}
    _, content = canonical(write_directory(tmp_path, adapter_config(r=1), tensors))
    _, stored = read_canonical(content)
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    for layer, module in modules:
        for side in "AB":
            source = tensors[tensor_name(layer, module, side)]
            found = stored[f"layers.{layer}.{module.value}.lora_{side}"]
            assert found == (names[str(source.dtype)], list(source.shape), source.tobytes())
    header_bytes = int.from_bytes(content[:8], "little")
    assert header_bytes % 8 == 0
    for entry in json.loads(content[8 : 8 + header_bytes]).values():
        if "dtype" in entry:
            assert entry["data_offsets"][0] % (4 if entry["dtype"] == "F32" else 2) == 0


@pytest.mark.parametrize(
    ("model_name", "in_config", "asserted", "fits"),
    [
        ("demo", "demo", "", True),
        ("demo", "/home/me/models/demo/", "", True),
        ("org/demo", "models/demo", "", True),
        ("org/demo", "org/demo", "", True),
        ("demo", "demo2", "", False),
        ("demo", "/", "", False),
        ("demo", "", "", False),
        ("demo", None, "", False),
        ("demo", None, "demo", True),
        ("demo", "other", "demo", True),
        ("demo", "demo", "other", False),
        ("org/demo", "org/demo", "demo", False),
    ],
)
def test_base_model_must_fit(model_name: str, in_config: str | None, asserted: str, fits: bool, tmp_path: Path) -> None:
    folder = write_directory(tmp_path, adapter_config(base_model_name_or_path=in_config))
    model = BaseModel(model_name, "llama", SHAPE)
    if fits:
        canonicalise(folder, model, asserted, Limits(), io.BytesIO())
    else:
        with pytest.raises(BaseModelMismatch, match=model_name):
            canonicalise(folder, model, asserted, Limits(), io.BytesIO())


def test_limits_are_kept(tmp_path: Path) -> None:
    folder = write_directory(tmp_path)
    assert canonical(folder, limits=Limits(max_rank=4, max_tensors=12))
    for limits in (
        Limits(max_rank=3),
        Limits(max_tensors=11),
        Limits(max_header_bytes=100),
        Limits(max_config_bytes=9),
    ):
        with pytest.raises(AdapterTooLarge):
            canonical(folder, limits=limits)


def test_adapter_without_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterConfigInvalid, match="targets no module"):
        canonical(write_directory(tmp_path, adapter_config(target_modules=["nothing"]), {}))


def test_ten_thousand_modules_are_too_many(tmp_path: Path) -> None:
    zero = np.zeros((1, 1), np.float32)
    tensors = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{h}.weight": zero for i in range(10_000) for h in "AB"
    }
    with pytest.raises(AdapterTooLarge, match="20000 tensors"):
        canonical(write_directory(tmp_path, tensors=to_safetensors(tensors)))


def test_memory_is_a_few_pieces_whatever_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PIECE_BYTES", 1 << 16)
    rank = 20_000
    modules = {(0, Module.DOWN): rank}  # 2.9 MB
    config = adapter_config(r=rank, target_modules=["down_proj"], layers_to_transform=0)
    folder = write_directory(tmp_path, config, adapter_tensors(modules))

    class Nowhere:
        def write(self, data: bytes | memoryview, /) -> None:
            pass

    limits = Limits(max_rank=rank, max_config_bytes=1000)
    canonicalise(folder, MODEL, "", limits, Nowhere())  # first, so that nothing is counted that stays
    tracemalloc.start()
    canonicalise(folder, MODEL, "", limits, Nowhere())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * (1 << 16)
