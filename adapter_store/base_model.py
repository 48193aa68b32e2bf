"""What the store knows of the base model: a few numbers of its config.json, never its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_store.config import ModelConfig
from adapter_store.errors import ConfigInvalid
from adapter_store.types import BaseModel, ModelShape

# `model_type` of every family whose decoder layers have the seven linear modules under PEFT's usual names.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def load_base_model(config: ModelConfig) -> BaseModel:
    """Reads shapes and family from `<path>/config.json`.

    Raises:
        ConfigInvalid: The file cannot be read, or describes a model that is not supported.
    """
    path = config.path / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(
            f"model.path: {path} cannot be read ({error.strerror}); name a folder with config.json"
        ) from None
    except ValueError:
        raise ConfigInvalid(f"model.path: {path} is not JSON") from None
    if not isinstance(values, dict):
        raise ConfigInvalid(f"model.path: {path} is not a model's configuration")
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ConfigInvalid(f"model.path: model_type {family!r} is not supported; it must be one of {list(FAMILIES)}")
    return BaseModel(name=config.name, family=family, shape=_shape(values, path))


def _shape(values: Mapping[str, Any], path: Path) -> ModelShape:
    hidden_size = _dimension(values, "hidden_size", path)
    num_heads = _dimension(values, "num_attention_heads", path)
    if values.get("head_dim") is None and hidden_size % num_heads:
        raise ConfigInvalid(f"model.path: {path}: hidden_size is not a multiple of num_attention_heads; set head_dim")
    return ModelShape(
        num_layers=_dimension(values, "num_hidden_layers", path),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=_dimension(values, "num_key_value_heads", path, default=num_heads),
        head_dim=_dimension(values, "head_dim", path, default=hidden_size // num_heads),
        intermediate_size=_dimension(values, "intermediate_size", path),
    )


def _dimension(values: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = values.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigInvalid(f"model.path: {path}: {key} must be a positive integer, got {value!r}")
    return value
