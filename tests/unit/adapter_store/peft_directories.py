"""PEFT directories for tests, made without torch: a sound one, and every way to spoil it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from adapter_store.peft.modules import PROJECTIONS
from adapter_store.types import BaseModel, ModelShape, Module

SHAPE = ModelShape(num_layers=3, hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=6, intermediate_size=20)
MODEL = BaseModel(name="demo", family="llama", shape=SHAPE)
PEFT_NAMES = {module: name for name, module in PROJECTIONS.items()}
HF_CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 20,
}

Tensors = dict[str, np.ndarray]


def adapter_config(**changes: Any) -> dict[str, Any]:
    """A sound configuration that targets q and v of every layer with rank 4; None removes nothing, it sets null."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "models/demo",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        **changes,
    }


def tensor_name(layer: int, module: Module, half: str) -> str:
    return f"base_model.model.model.layers.{layer}.{PEFT_NAMES[module]}.lora_{half}.weight"


def adapter_tensors(
    modules: Mapping[tuple[int, Module], int] | None = None, dtype: Any = np.float32, seed: int = 0
) -> Tensors:
    """Random matrices for modules with their ranks; q and v of every layer with rank 4 if not given."""
    if modules is None:
        modules = {(layer, module): 4 for layer in range(SHAPE.num_layers) for module in (Module.Q, Module.V)}
    random = np.random.default_rng(seed)
    tensors = {}
    for (layer, module), rank in modules.items():
        a, b = (rank, SHAPE.in_features(module)), (SHAPE.out_features(module), rank)
        tensors[tensor_name(layer, module, "A")] = random.standard_normal(a).astype(dtype)
        tensors[tensor_name(layer, module, "B")] = random.standard_normal(b).astype(dtype)
    return tensors


def to_safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The file; uint16 arrays are the bits of bfloat16."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}  # alive until serialised
    specs = {
        name: safetensors.TensorSpec(
            dtype="bfloat16" if array.dtype == np.uint16 else array.dtype.name,
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    return bytes(safetensors.serialize(specs))


def write_directory(
    folder: Path,
    config: Mapping[str, Any] | bytes | None = None,
    tensors: Mapping[str, np.ndarray] | bytes | None = None,
) -> Path:
    """A PEFT directory; bytes are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    config = adapter_config() if config is None else config
    tensors = adapter_tensors() if tensors is None else tensors
    content = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(content)
    weights = tensors if isinstance(tensors, bytes) else to_safetensors(tensors)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def write_base_model(folder: Path, **changes: Any) -> Path:
    """A folder with the base model's config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**HF_CONFIG, **changes}))
    return folder


def read_canonical(content: bytes) -> tuple[dict[str, Any], dict[str, tuple[str, list[int], bytes]]]:
    """What a canonical file says of itself, and its tensors as (dtype, shape, bytes), read by the library."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"].keys() == {"multitude"}
    tensors = {
        name: (entry["dtype"], list(entry["shape"]), bytes(entry["data"]))
        for name, entry in safetensors.deserialize(content)
    }
    return json.loads(header["__metadata__"]["multitude"]), tensors
