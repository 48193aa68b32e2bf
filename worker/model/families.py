"""The model families that the decoder computes exactly. A family is added here: one row of `FAMILIES`.

The decoder is one pre-norm transformer with rotary positions, grouped-query attention and a gated SiLU MLP; families
differ in the traits below. One that needs more than a trait needs its own branch in decoder.py first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.model.errors import ModelUnsupported
from worker.model.fields import Fields


@dataclass(frozen=True, slots=True)
class DecoderTraits:
    """What differs between families; `windows[layer]` is the sliding window in tokens, None for full attention."""

    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


@dataclass(frozen=True, slots=True)
class Family:
    """A model type of transformers.

    `defaults` are those of its configuration class, for keys that config.json may leave out.
    """

    name: str
    architecture: str
    defaults: Mapping[str, object]
    traits: Callable[[Fields], DecoderTraits]


def _llama(fields: Fields) -> DecoderTraits:
    attention_bias = fields.flag("attention_bias")
    return DecoderTraits(
        windows=(None,) * fields.integer("num_hidden_layers"),
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=fields.flag("mlp_bias"),
    )


def _mistral(fields: Fields) -> DecoderTraits:
    if fields.has("layer_types"):
        raise ModelUnsupported(
            "config.json: layer_types in a Mistral model: transformers ignores it there, so it is not clear which "
            "layers have a sliding window; remove it, or use a family that has it",
            field="layer_types",
        )
    return DecoderTraits(windows=(fields.optional_integer("sliding_window"),) * fields.integer("num_hidden_layers"))


def _qwen2(fields: Fields) -> DecoderTraits:
    return DecoderTraits(windows=_qwen_windows(fields), qkv_bias=True)


def _qwen3(fields: Fields) -> DecoderTraits:
    attention_bias = fields.flag("attention_bias")
    return DecoderTraits(windows=_qwen_windows(fields), qkv_bias=attention_bias, o_bias=attention_bias, qk_norm=True)


def _qwen_windows(fields: Fields) -> tuple[int | None, ...]:
    """One window for the layers that `layer_types` names, or for those from `max_window_layers` on."""
    num_layers = fields.integer("num_hidden_layers")
    window = fields.optional_integer("sliding_window") if fields.flag("use_sliding_window") else None
    layer_types = fields.texts("layer_types")
    if layer_types is None:
        first = fields.integer("max_window_layers", minimum=0)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if len(layer_types) != num_layers:
        raise fields.invalid("layer_types", f"names {len(layer_types)} layers of {num_layers}")
    for layer_type in layer_types:
        if layer_type not in ("full_attention", "sliding_attention"):
            raise ModelUnsupported(
                f"config.json: layer_types has {layer_type!r}; only full_attention and sliding_attention are computed",
                field="layer_types",
            )
        if layer_type == "sliding_attention" and window is None:
            raise fields.invalid(
                "layer_types", "has sliding_attention, but use_sliding_window or sliding_window is off"
            )
    return tuple(window if layer_type == "sliding_attention" else None for layer_type in layer_types)


_ANY = {"rope_theta": 10000.0, "partial_rotary_factor": 1.0, "tie_word_embeddings": False, "hidden_act": "silu"}
_QWEN = {
    **_ANY,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}

FAMILIES: Mapping[str, Family] = {
    family.architecture: family
    for family in (
        Family(
            "llama",
            "LlamaForCausalLM",
            {**_ANY, "num_key_value_heads": None, "head_dim": None, "attention_bias": False, "mlp_bias": False},
            _llama,
        ),
        Family("mistral", "MistralForCausalLM", {**_ANY, "head_dim": None, "sliding_window": 4096}, _mistral),
        Family("qwen2", "Qwen2ForCausalLM", {**_QWEN, "head_dim": None}, _qwen2),
        Family("qwen3", "Qwen3ForCausalLM", {**_QWEN, "head_dim": 128, "attention_bias": False}, _qwen3),
    )
}
