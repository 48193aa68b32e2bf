"""The base model's module tree as PEFT sees it: every name that a target can match."""

from dataclasses import dataclass

from adapter_store.types import BaseModel, Module, Site

PROJECTIONS = {
    "self_attn.q_proj": Module.Q,
    "self_attn.k_proj": Module.K,
    "self_attn.v_proj": Module.V,
    "self_attn.o_proj": Module.O,
    "mlp.gate_proj": Module.GATE,
    "mlp.up_proj": Module.UP,
    "mlp.down_proj": Module.DOWN,
}

# What PEFT targets in these families if target_modules is not set.
DEFAULT_TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class ModuleName:
    """A module of the base model.

    `site` is None for what adapters may not change here, such as embeddings; `layer` is the decoder layer that it is
    part of, if any.
    """

    key: str
    site: Site | None = None
    layer: int | None = None


def module_names(model: BaseModel) -> tuple[ModuleName, ...]:
    """Every module of the causal language model, by its name in `transformers`."""
    names = [ModuleName("model"), ModuleName("model.embed_tokens"), ModuleName("model.layers")]
    for layer in range(model.shape.num_layers):
        names += _layer_names(f"model.layers.{layer}", layer, model.family)
    names += [ModuleName("model.norm"), ModuleName("model.rotary_emb"), ModuleName("lm_head")]
    return tuple(names)


def _layer_names(prefix: str, layer: int, family: str) -> list[ModuleName]:
    others = ["self_attn", "mlp", "mlp.act_fn", "input_layernorm", "post_attention_layernorm"]
    if family == "qwen3":
        others += ["self_attn.q_norm", "self_attn.k_norm"]
    return [
        ModuleName(prefix),
        *(ModuleName(f"{prefix}.{name}", Site(layer, module), layer) for name, module in PROJECTIONS.items()),
        *(ModuleName(f"{prefix}.{name}", layer=layer) for name in others),
    ]
