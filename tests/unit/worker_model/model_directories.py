"""Model directories with weights that mean nothing, to be damaged in one place each."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from worker.model.config import read_config
from worker.model.weights import expected_shapes

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_key_value_heads": 2},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_key_value_heads": 2},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "num_key_value_heads": 2},
}
_SIZES = {
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}


def write_config(directory: Path, family: str = "llama", **changes: Any) -> Path:
    """Writes config.json; a change to None removes the key, one to "null" writes null."""
    values = {**_SIZES, **CONFIGS[family], **changes}
    kept = {key: None if value == "null" else value for key, value in values.items() if value is not None}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(kept))
    return directory


def write_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Writes model.safetensors as config.json describes it."""
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape) for name, shape in expected_shapes(read_config(directory)).items()}
    save_file(tensors, directory / "model.safetensors")
    return tensors


def write_shards(directory: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Writes the tensors as two shards with an index; returns its weight_map."""
    (directory / "model.safetensors").unlink(missing_ok=True)
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for file_name in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file_name}, directory / file_name)
    write_index(directory, weight_map)
    return weight_map


def write_index(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
