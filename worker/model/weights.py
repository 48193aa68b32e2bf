"""A model's weights, named as Hugging Face names them and fused as the decoder uses them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.activation import linear_silu_mul
from kernels.linear import linear
from kernels.lora import LoraBatch, LoraDelta, linear_and_shrink
from worker.model.checkpoint import listed
from worker.model.config import ModelConfig
from worker.model.errors import ModelWeightsInvalid

_IGNORED = re.compile(
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
)  # old checkpoints; follows from the config


class Tensors(Protocol):
    """A model's tensors by the names that Hugging Face gives them."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's shape."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, on any device."""
        ...


@dataclass(frozen=True, slots=True)
class Projection:
    """`x @ weight.T + bias`; one or several linear layers over the same input."""

    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """`[num_rows, in]` to `out`, `[num_rows, out]`, which is returned."""
        return linear(x, self.weight, out, self.bias, chained=True)

    def gated(self, x: Tensor, out: Tensor, product: Tensor) -> Tensor:
        """Of gate and up SwiGLU's product, to `product`, which is returned; `out` is memory for what they give."""
        return linear_silu_mul(x, self.weight, out, product, self.bias)

    def with_adapters(
        self,
        x: Tensor,
        out: Tensor,
        columns: Sequence[Tensor],
        pages: Tensor,
        batch: LoraBatch | None,
        layer: int,
        modules: tuple[int, ...],
    ) -> LoraDelta | None:
        """Writes `out`, whose `columns` are the modules'; returns what adapters have yet to add to these."""
        if batch is None:
            self(x, out)
            return None
        return linear_and_shrink(x, self.weight, out, self.bias, columns, pages, batch, layer=layer, modules=modules)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer."""

    input_norm: Tensor  # [hidden]
    qkv: Projection
    qk_norm: Tensor | None  # [num_heads + num_kv_heads, head_dim]
    o: Projection
    post_attention_norm: Tensor  # [hidden]
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights, of one dtype on one device."""

    embedding: Tensor  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [hidden]
    output: Tensor  # [vocab, hidden]


def expected_shapes(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Every tensor that the model's files have to have."""
    shape, traits = config.shape, config.traits
    hidden, inner = shape.hidden_size, shape.intermediate_size
    q_width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    projections = {
        "self_attn.q_proj": (q_width, hidden, traits.qkv_bias),
        "self_attn.k_proj": (kv_width, hidden, traits.qkv_bias),
        "self_attn.v_proj": (kv_width, hidden, traits.qkv_bias),
        "self_attn.o_proj": (hidden, q_width, traits.o_bias),
        "mlp.gate_proj": (inner, hidden, traits.mlp_bias),
        "mlp.up_proj": (inner, hidden, traits.mlp_bias),
        "mlp.down_proj": (hidden, inner, traits.mlp_bias),
    }
    for layer in range(shape.num_layers):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
        if traits.qk_norm:
            shapes[f"{prefix}.self_attn.q_norm.weight"] = (shape.head_dim,)
            shapes[f"{prefix}.self_attn.k_norm.weight"] = (shape.head_dim,)
        for name, (out_features, in_features, has_bias) in projections.items():
            shapes[f"{prefix}.{name}.weight"] = (out_features, in_features)
            if has_bias:
                shapes[f"{prefix}.{name}.bias"] = (out_features,)
    return shapes


def read_weights(tensors: Tensors, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> ModelWeights:
    """Reads, casts and fuses all weights.

    Raises:
        ModelWeightsInvalid: tensors are missing, unexpected or of a wrong shape.
    """
    _check_shapes(tensors, config)

    def read(name: str) -> Tensor:
        return tensors.read(name).to(device=device, dtype=dtype).contiguous()

    embedding = read("model.embed_tokens.weight")
    is_doubled = config.tied_embeddings and "lm_head.weight" in tensors.shapes
    if is_doubled and not torch.equal(read("lm_head.weight"), embedding):
        raise ModelWeightsInvalid(
            "lm_head.weight differs from model.embed_tokens.weight, though config.json has tie_word_embeddings: "
            "set it to false, or remove lm_head.weight"
        )
    layers = tuple(
        _read_layer(tensors, config, f"model.layers.{layer}", dtype, device) for layer in range(config.shape.num_layers)
    )
    output = embedding if config.tied_embeddings else read("lm_head.weight")
    return ModelWeights(embedding, layers, read("model.norm.weight"), output)


def _read_layer(
    tensors: Tensors, config: ModelConfig, prefix: str, dtype: torch.dtype, device: torch.device
) -> LayerWeights:
    def read(*names: str) -> Tensor:
        parts = [tensors.read(f"{prefix}.{name}").to(device=device, dtype=dtype) for name in names]
        return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()

    def projection(*names: str, bias: bool) -> Projection:
        return Projection(
            read(*(f"{name}.weight" for name in names)), read(*(f"{name}.bias" for name in names)) if bias else None
        )

    shape, traits = config.shape, config.traits
    qk_norm = None
    if traits.qk_norm:
        q_norm, k_norm = read("self_attn.q_norm.weight"), read("self_attn.k_norm.weight")
        qk_norm = torch.cat((q_norm.expand(shape.num_heads, -1), k_norm.expand(shape.num_kv_heads, -1)))
    return LayerWeights(
        input_norm=read("input_layernorm.weight"),
        qkv=projection("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", bias=traits.qkv_bias),
        qk_norm=qk_norm,
        o=projection("self_attn.o_proj", bias=traits.o_bias),
        post_attention_norm=read("post_attention_layernorm.weight"),
        gate_up=projection("mlp.gate_proj", "mlp.up_proj", bias=traits.mlp_bias),
        down=projection("mlp.down_proj", bias=traits.mlp_bias),
    )


def _check_shapes(tensors: Tensors, config: ModelConfig) -> None:
    expected = dict(expected_shapes(config))
    if config.tied_embeddings and "lm_head.weight" in tensors.shapes:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    found = {name: shape for name, shape in tensors.shapes.items() if not _IGNORED.fullmatch(name)}
    problems = []
    if missing := [name for name in expected if name not in found]:
        problems.append(f"missing {listed(missing)}")
    if unexpected := [name for name in found if name not in expected]:
        problems.append(f"unexpected {listed(unexpected)}")
    wrong = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        problems.append(f"wrongly shaped {listed(wrong)}")
    if problems:
        raise ModelWeightsInvalid(f"the weights are not those of config.json: {'; '.join(problems)}")
