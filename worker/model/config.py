"""What a model is, read from its Hugging Face directory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.memory.layout import ModelShape
from worker.model.errors import ModelConfigInvalid, ModelNotFound, ModelUnsupported
from worker.model.families import FAMILIES, DecoderTraits, Family
from worker.model.fields import Fields
from worker.model.rope import RopeConfig, read_rope

_DTYPES = ("float32", "float16", "bfloat16")
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A supported model.

    Attributes:
        family: Name in `FAMILIES`, such as "llama".
        shape: Dimensions that adapters and KV depend on.
        vocab_size: Rows of the embedding, padding included.
        context_length: Tokens of the longest sequence that the model declares.
        norm_epsilon: Of every RMSNorm.
        rope: Rotary positions.
        traits: Where this family differs from others.
        tied_embeddings: Whether the output matrix is the embedding.
        eos_token_ids: Tokens that end a sequence, of config.json and generation_config.json, ascending.
        dtype: What the weights are stored in: "float32", "float16" or "bfloat16".
    """

    family: str
    shape: ModelShape
    vocab_size: int
    context_length: int
    norm_epsilon: float
    rope: RopeConfig
    traits: DecoderTraits
    tied_embeddings: bool
    eos_token_ids: tuple[int, ...]
    dtype: str


def read_config(directory: Path) -> ModelConfig:
    """Reads config.json, and generation_config.json if there is one.

    Raises:
        ModelNotFound: no such directory, or no config.json in it.
        ModelConfigInvalid: a file is not JSON, or a key is missing or impossible.
        ModelUnsupported: the model needs something that the decoder does not compute.
    """
    if not directory.is_dir():
        raise ModelNotFound(f"{directory} is not a directory: model has to be a Hugging Face model directory")
    raw = _read_json(directory / "config.json")
    if raw is None:
        raise ModelNotFound(f"{directory} has no config.json: model has to be a Hugging Face model directory")
    family = _family(raw)
    fields = Fields(raw, {"eos_token_id": None, **family.defaults}, "config.json")
    activation = fields.text("hidden_act")
    if activation != "silu":
        raise ModelUnsupported(
            f"config.json: hidden_act {activation!r} is not computed, only 'silu'", field="hidden_act"
        )
    shape = _shape(fields)
    generation = Fields(
        _read_json(directory / "generation_config.json") or {}, {"eos_token_id": None}, "generation_config.json"
    )
    vocab_size = fields.integer("vocab_size")
    eos_token_ids = {*fields.token_ids("eos_token_id"), *generation.token_ids("eos_token_id")}
    if eos_token_ids and max(eos_token_ids) >= vocab_size:
        raise fields.invalid("eos_token_id", f"{max(eos_token_ids)} is not below vocab_size, {vocab_size}")
    return ModelConfig(
        family=family.name,
        shape=shape,
        vocab_size=vocab_size,
        context_length=fields.integer("max_position_embeddings"),
        norm_epsilon=fields.positive("rms_norm_eps"),
        rope=read_rope(fields, shape.head_dim),
        traits=family.traits(fields),
        tied_embeddings=fields.flag("tie_word_embeddings"),
        eos_token_ids=tuple(sorted(eos_token_ids)),
        dtype=_dtype(fields),
    )


def _family(raw: Mapping[str, object]) -> Family:
    if raw.get("quantization_config") is not None:
        raise ModelUnsupported(
            "config.json: quantization_config: quantized weights are not computed; use the unquantized model",
            field="quantization_config",
        )
    for key in _EXPERT_KEYS:
        if raw.get(key) is not None:
            raise ModelUnsupported(f"config.json: {key}: mixture-of-experts layers are not computed", field=key)
    architectures = raw.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
        raise ModelConfigInvalid(
            f"config.json: architectures is {architectures!r} and has to be a list of one name", field="architectures"
        )
    family = FAMILIES.get(architectures[0])
    if family is None:
        raise ModelUnsupported(
            f"config.json: architecture {architectures[0]} is not supported; supported are {', '.join(FAMILIES)}",
            field="architectures",
        )
    model_type = raw.get("model_type")
    if model_type != family.name:
        raise ModelConfigInvalid(
            f"config.json: model_type is {model_type!r}, and {family.architecture} is of type {family.name!r}",
            field="model_type",
        )
    return family


def _shape(fields: Fields) -> ModelShape:
    hidden_size, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    num_kv_heads = fields.optional_integer("num_key_value_heads") or num_heads
    if num_heads % num_kv_heads:
        raise fields.invalid("num_key_value_heads", f"is {num_kv_heads} and does not divide the {num_heads} heads")
    head_dim = fields.optional_integer("head_dim")
    if head_dim is None:
        if hidden_size % num_heads:
            raise fields.invalid("hidden_size", f"is {hidden_size} and is not divided by the {num_heads} heads")
        head_dim = hidden_size // num_heads
    if head_dim % 2:
        raise fields.invalid("head_dim", f"is {head_dim} and has to be even for rotary positions")
    return ModelShape(
        num_layers=fields.integer("num_hidden_layers"),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.integer("intermediate_size"),
    )


def _dtype(fields: Fields) -> str:
    """`dtype` as transformers 5 writes it, or `torch_dtype` as before; without either, float32."""
    for key in ("dtype", "torch_dtype"):
        if fields.has(key):
            name = fields.text(key)
            if name not in _DTYPES:
                raise ModelUnsupported(f"config.json: {key} {name!r} is not one of {', '.join(_DTYPES)}", field=key)
            return name
    return "float32"


def _read_json(path: Path) -> Mapping[str, object] | None:
    """The object in a file; None if there is no such file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelConfigInvalid(f"{path.name} cannot be read as JSON: {error}", field=path.name) from error
    if not isinstance(value, dict):
        raise ModelConfigInvalid(f"{path.name} has to hold a JSON object", field=path.name)
    return value
