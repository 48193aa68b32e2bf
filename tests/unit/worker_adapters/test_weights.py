import json
import struct

import pytest
import torch
from adapters_for_tests import BASE_MODEL, SHAPE, canonical_file, layout_of, metadata_of, tensors_of

from worker.adapters.errors import (
    AdapterBaseModelMismatch,
    AdapterCorrupt,
    AdapterNotFinite,
    AdapterShapeMismatch,
)
from worker.adapters.weights import parse_weights

TENSORS = tensors_of(layout_of((2, 0, 3, 0, 0, 0, 5), (0, 0, 0, 1, 0, 0, 0)))


def parse(data: bytes) -> object:
    return parse_weights(data, SHAPE, BASE_MODEL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_takes_a_file_apart(dtype) -> None:
    tensors = tensors_of(layout_of((2, 0, 3, 0, 0, 0, 5), (0, 0, 0, 1, 0, 0, 0)), dtype=dtype)
    scales = {"layers.0.q": 0.5, "layers.0.v": 1, "layers.0.down": 2.25, "layers.1.o": -3.0}
    weights = parse(canonical_file(tensors, {"format": 1, "base_model": BASE_MODEL, "scales": scales}))
    assert weights.layout.ranks == ((2, 0, 3, 0, 0, 0, 5), (0, 0, 0, 1, 0, 0, 0))
    assert weights.layout.scales == ((0.5, 0, 1.0, 0, 0, 0, 2.25), (0, 0, 0, -3.0, 0, 0, 0))
    assert set(weights.matrices) == {(0, 0), (0, 2), (0, 6), (1, 3)}
    assert torch.equal(weights.matrices[0, 2].a, tensors["layers.0.v.lora_A"])
    assert torch.equal(weights.matrices[0, 2].b, tensors["layers.0.v.lora_B"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a pickle in a zip",
        canonical_file(TENSORS)[:-1],
        canonical_file(TENSORS) + b"\0",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 4) + b"[[[[",
    ],
    ids=["empty", "zip", "one byte less", "one byte more", "header of an exabyte", "broken header"],
)
def test_what_is_no_safetensors_file_is_corrupt(data) -> None:
    with pytest.raises(AdapterCorrupt, match="not a safetensors file"):
        parse(data)


def with_tensor(name: str, tensor: torch.Tensor) -> bytes:
    tensors = {**TENSORS, name: tensor}
    return canonical_file(tensors)


def without(name: str) -> bytes:
    return canonical_file({other: tensor for other, tensor in TENSORS.items() if other != name}, metadata_of(TENSORS))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (without("layers.0.q.lora_A"), r"layers\.0\.q lacks lora_A"),
        (without("layers.0.q.lora_B"), r"layers\.0\.q lacks lora_B"),
        (with_tensor("layers.0.head.lora_A", torch.zeros(1)), "'layers.0.head.lora_A' has no meaning"),
        (with_tensor("layers.00.q.lora_A", torch.zeros(1)), "'layers.00.q.lora_A' has no meaning"),
        (with_tensor("layers.0.q.lora_A", torch.zeros(2, 12, dtype=torch.int32)), r"q\.lora_A is torch\.int32"),
        (with_tensor("layers.0.q.lora_A", torch.zeros(0, 12)), "not two matrices"),
        (with_tensor("layers.0.q.lora_A", torch.zeros(24)), "not two matrices"),
        (canonical_file({}), "holds no tensors"),
    ],
)
def test_a_file_that_contradicts_itself_is_corrupt(data, message) -> None:
    with pytest.raises(AdapterCorrupt, match=message):
        parse(data)


def with_metadata(**changes: object) -> bytes:
    return canonical_file(TENSORS, {**metadata_of(TENSORS), **changes})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (canonical_file(TENSORS, "text"), "not of format 1"),
        (with_metadata(format=2), "not of format 1"),
        (with_metadata(scales=None), "holds no scales"),
        (with_metadata(scales={}), "not those of its modules"),
        (with_metadata(scales={**metadata_of(TENSORS)["scales"], "layers.1.q": 1.0}), "not those of its modules"),
        (with_metadata(scales={**metadata_of(TENSORS)["scales"], "layers.0.q": "1"}), "not a finite number"),
        (with_metadata(scales={**metadata_of(TENSORS)["scales"], "layers.0.q": True}), "not a finite number"),
        (with_metadata(scales={**metadata_of(TENSORS)["scales"], "layers.0.q": float("nan")}), "not a finite number"),
        (with_metadata(scales={**metadata_of(TENSORS)["scales"], "layers.0.q": 10**400}), "not a finite number"),
    ],
)
def test_metadata_that_makes_no_sense_is_corrupt(data, message) -> None:
    with pytest.raises(AdapterCorrupt, match=message):
        parse(data)


def test_a_file_without_metadata_is_corrupt() -> None:
    header = json.dumps({"layers.0.q.lora_A": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(AdapterCorrupt, match='no "multitude" metadata'):
        parse(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")


def test_another_base_model_is_named() -> None:
    with pytest.raises(AdapterBaseModelMismatch, match="for base model 'other' and this worker serves 'tiny'"):
        parse(with_metadata(base_model="other"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (canonical_file({"layers.2.q.lora_A": torch.zeros(1, 12)}), "layer 2 and the base model has 2 layers"),
        (with_tensor("layers.0.q.lora_A", torch.zeros(2, 13)), r"lora_A \[2, 13\].* takes \[rank, 12\]"),
        (with_tensor("layers.0.q.lora_B", torch.zeros(16, 3)), r"lora_B \[16, 3\]"),
        (with_tensor("layers.0.v.lora_B", torch.zeros(16, 3)), r"\[8, rank\]"),
    ],
)
def test_matrices_that_do_not_fit_the_base_model(data, message) -> None:
    with pytest.raises(AdapterShapeMismatch, match=message):
        parse(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_weights_that_are_not_finite(value, half) -> None:
    tensor = TENSORS[f"layers.0.down.{half}"].clone()
    tensor[-1, -1] = value
    with pytest.raises(AdapterNotFinite, match=rf"layers\.0\.down\.{half}"):
        parse(with_tensor(f"layers.0.down.{half}", tensor))
