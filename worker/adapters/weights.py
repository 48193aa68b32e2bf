"""The canonical weights file, checked and taken apart.

The format is described at AdapterService.FetchWeights in adapter.proto. The store validated the adapter when it was
published; this is checked again because a mistake here would be silent: wrong tokens.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from worker.adapters.errors import AdapterBaseModelMismatch, AdapterCorrupt, AdapterNotFinite, AdapterShapeMismatch
from worker.memory.layout import MODULES, AdapterLayout, ModelShape

_FORMAT = 1
_MAX_SCALE = torch.finfo(torch.float32).max  # scales are float32 where they are used
_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_TENSOR_NAME = re.compile(rf"layers\.(0|[1-9][0-9]{{0,5}})\.({'|'.join(MODULES)})\.lora_([AB])", re.ASCII)


@dataclass(frozen=True, slots=True)
class LoraMatrices:
    """The two halves of one module: A `[rank, in]` and B `[out, rank]`, as stored."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """An adapter's matrices by (layer, index in MODULES), and the layout that follows from them."""

    layout: AdapterLayout
    matrices: Mapping[tuple[int, int], LoraMatrices]


def parse_weights(data: bytes, shape: ModelShape, base_model: str) -> AdapterWeights:
    """Takes a canonical weights file apart.

    Raises:
        AdapterCorrupt: not such a file, or it contradicts itself.
        AdapterBaseModelMismatch: it is for another base model than `base_model`.
        AdapterShapeMismatch: a matrix does not fit `shape`.
        AdapterNotFinite: a weight is NaN or infinite.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise AdapterCorrupt(f"the weights are not a safetensors file: {error}") from error
    scales = _scales_in_metadata(data, base_model)
    matrices = _pair_halves(tensors, shape)
    if scales.keys() != {_module_name(*key) for key in matrices}:
        _refuse("the scales in its metadata are not those of its modules")
    for (layer, module), pair in matrices.items():
        _check_matrices(_module_name(layer, module), pair, shape.in_features(module), shape.out_features(module))
    layers, modules = range(shape.num_layers), range(len(MODULES))
    ranks = tuple(tuple(_rank(matrices.get((layer, m))) for m in modules) for layer in layers)
    scales_of = tuple(tuple(scales.get(_module_name(layer, m), 0.0) for m in modules) for layer in layers)
    return AdapterWeights(AdapterLayout(shape, ranks, scales_of), matrices)


def _scales_in_metadata(data: bytes, base_model: str) -> dict[str, float]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # well-formed: the tensors were just read
    try:
        metadata = json.loads(header.get("__metadata__", {}).get("multitude", ""))
    except (ValueError, RecursionError) as error:
        raise AdapterCorrupt('the weights file has no "multitude" metadata that is JSON') from error
    if not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        _refuse(f"its metadata is not of format {_FORMAT}, the one that this worker reads")
    if metadata.get("base_model") != base_model:
        raise AdapterBaseModelMismatch(
            f"the adapter is for base model {metadata.get('base_model')!r} and this worker serves {base_model!r}"
        )
    scales = metadata.get("scales")
    if not isinstance(scales, dict):
        _refuse("its metadata holds no scales")
    for name, scale in scales.items():
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) <= _MAX_SCALE:
            _refuse(f"the scale of {name[:80]} is not a finite number")
    return {name: float(scale) for name, scale in scales.items()}


def _pair_halves(tensors: Mapping[str, Tensor], shape: ModelShape) -> dict[tuple[int, int], LoraMatrices]:
    halves: dict[tuple[int, int], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            _refuse(f"tensor {name[:80]!r} has no meaning in it")
        layer, module = int(match[1]), MODULES.index(match[2])
        if layer >= shape.num_layers:
            raise AdapterShapeMismatch(f"{name} is for layer {layer} and the base model has {shape.num_layers} layers")
        halves.setdefault((layer, module), {})[match[3]] = tensor
    if not halves:
        _refuse("it holds no tensors")
    for key, found in halves.items():
        if len(found) < 2:
            _refuse(f"{_module_name(*key)} lacks lora_{'B' if 'A' in found else 'A'}")
    return {key: LoraMatrices(halves[key]["A"], halves[key]["B"]) for key in sorted(halves)}


def _check_matrices(name: str, pair: LoraMatrices, in_features: int, out_features: int) -> None:
    for half, matrix in (("lora_A", pair.a), ("lora_B", pair.b)):
        if matrix.dtype not in _TYPES:
            _refuse(f"{name}.{half} is {matrix.dtype}, not float32, float16 or bfloat16")
    if pair.a.ndim != 2 or pair.b.ndim != 2 or pair.a.shape[0] == 0:
        _refuse(f"{name} holds shapes {list(pair.a.shape)} and {list(pair.b.shape)}, not two matrices")
    rank = pair.a.shape[0]
    if pair.a.shape[1] != in_features or tuple(pair.b.shape) != (out_features, rank):
        raise AdapterShapeMismatch(
            f"{name} has lora_A {list(pair.a.shape)} and lora_B {list(pair.b.shape)}; the base model takes "
            f"[rank, {in_features}] and [{out_features}, rank]"
        )
    for half, matrix in (("lora_A", pair.a), ("lora_B", pair.b)):
        if not torch.isfinite(matrix).all():
            raise AdapterNotFinite(f"{name}.{half} holds NaN or infinity")


def _rank(pair: LoraMatrices | None) -> int:
    return 0 if pair is None else pair.a.shape[0]


def _module_name(layer: int, module: int) -> str:
    return f"layers.{layer}.{MODULES[module]}"


def _refuse(why: str) -> NoReturn:
    raise AdapterCorrupt(f"the weights file cannot be used: {why}")
