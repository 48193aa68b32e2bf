"""Whether an adapter's tensors are exactly those that its configuration asks for, and finite."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterNotFinite,
    AdapterShapeMismatch,
    AdapterTensorMissing,
    AdapterTensorUnexpected,
    AdapterTooLarge,
    AdapterUnsupported,
)
from adapter_store.peft.modules import PROJECTIONS
from adapter_store.peft.tensors import Dtype, TensorInfo
from adapter_store.types import BaseModel, Delta, Site

# As PEFT saves it; some tools leave the adapter's name, "default", in.
_TENSOR_NAME = re.compile(
    r"base_model\.model\.model\.layers\.(?P<layer>0|[1-9]\d{0,5})\.(?P<module>\w+\.\w+)\."
    r"lora_(?P<half>[AB])(?:\.default)?\.weight"
)
# Parts of tensor names that say what an adapter has beyond plain LoRA, and what that is.
_BEYOND_LORA = {
    "lora_magnitude_vector": "DoRA",
    "lora_embedding_": "an adapted embedding",
    "modules_to_save": "a module trained beside the adapter",
    "embed_tokens": "the embedding",
    "lm_head": "the output layer",
    "trainable_tokens": "trained token embeddings",
    "lora_diag": "KaSA",
    ".bias": "a trained bias",
}
# Bits of the exponent: a number is NaN or infinite exactly if all of them are set.
_EXPONENT_BITS = {Dtype.F32: 0x7F80_0000, Dtype.F16: 0x7C00, Dtype.BF16: 0x7F80}


@dataclass(frozen=True, slots=True)
class Matrices:
    """One change of the adapter with its two tensors: A `[rank, in]`, B `[out, rank]`."""

    delta: Delta
    a: TensorInfo
    b: TensorInfo


def pair(
    tensors: Mapping[str, TensorInfo], deltas: Iterable[Delta], model: BaseModel, limits: Limits
) -> tuple[Matrices, ...]:
    """Gives every change its tensors, in the order of `deltas`.

    Raises:
        AdapterTensorMissing: A change lacks one.
        AdapterTensorUnexpected: A tensor belongs to no change.
        AdapterUnsupported: A tensor belongs to something beyond plain LoRA.
        AdapterShapeMismatch: A tensor does not fit its rank or the base model.
        AdapterTooLarge: A rank exceeds the limit.
    """
    halves = _halves(tensors)
    matrices = tuple(_pair_one(halves, delta, model, limits) for delta in deltas)
    for site, half in halves.keys() - {(m.delta.site, h) for m in matrices for h in "AB"}:
        tensor = halves[site, half]
        hint = (
            f"the base model has {model.shape.num_layers} layers"
            if site.layer >= model.shape.num_layers
            else "adapter_config.json does not target its module"
        )
        raise AdapterTensorUnexpected(f"{tensor.name} is not expected: {hint}", tensor=tensor.name)
    return matrices


def require_finite(tensor: TensorInfo, piece: memoryview) -> None:
    """Checks whole elements of `tensor`.

    Raises:
        AdapterNotFinite: One is NaN or infinite.
    """
    bits = np.frombuffer(piece, dtype="<u4" if tensor.dtype is Dtype.F32 else "<u2")
    mask = bits.dtype.type(_EXPONENT_BITS[tensor.dtype])
    if np.any((bits & mask) == mask):
        raise AdapterNotFinite(f"{tensor.name} holds NaN or infinity; train or convert it again", tensor=tensor.name)


def _halves(tensors: Mapping[str, TensorInfo]) -> dict[tuple[Site, str], TensorInfo]:
    halves: dict[tuple[Site, str], TensorInfo] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or match["module"] not in PROJECTIONS:
            _refuse_name(name)
        key = Site(int(match["layer"]), PROJECTIONS[match["module"]]), match["half"]
        if key in halves:
            raise AdapterTensorUnexpected(f"{name} and {halves[key].name} are the same tensor; keep one", tensor=name)
        halves[key] = tensor
    return halves


def _refuse_name(name: str) -> NoReturn:
    for part, feature in _BEYOND_LORA.items():
        if part in name:
            raise AdapterUnsupported(f"{_cut(name)} belongs to {feature}, which is not supported", tensor=_cut(name))
    raise AdapterTensorUnexpected(
        f"{_cut(name)} is not expected: tensors are named base_model.model.model.layers.<i>.<module>.lora_A.weight or "
        "lora_B.weight, module one of " + ", ".join(PROJECTIONS),
        tensor=_cut(name),
    )


def _cut(name: str) -> str:
    return name if len(name) <= 200 else name[:197] + "..."


def _pair_one(
    halves: Mapping[tuple[Site, str], TensorInfo], delta: Delta, model: BaseModel, limits: Limits
) -> Matrices:
    if delta.rank > limits.max_rank:
        raise AdapterTooLarge(f"{delta.site} has rank {delta.rank}, more than the {limits.max_rank} allowed", field="r")
    a, b = (halves.get((delta.site, half)) for half in "AB")
    if a is None or b is None:
        missing = "lora_A and lora_B" if a is b else "lora_A" if a is None else "lora_B"
        raise AdapterTensorMissing(
            f"{missing} of {delta.site} is missing: adapter_config.json targets the module; save the adapter again, or "
            "correct target_modules",
            site=str(delta.site),
        )
    _require_shape(a, (delta.rank, model.shape.in_features(delta.site.module)), model)
    _require_shape(b, (model.shape.out_features(delta.site.module), delta.rank), model)
    return Matrices(delta, a, b)


def _require_shape(tensor: TensorInfo, shape: tuple[int, int], model: BaseModel) -> None:
    if tensor.shape != shape:
        raise AdapterShapeMismatch(
            f"{tensor.name} has shape {list(tensor.shape)}; with the adapter's rank and base model {model.name} it "
            f"must be {list(shape)}",
            tensor=tensor.name,
        )
