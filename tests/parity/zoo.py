"""Tiny random models of every family, and a zoo of PEFT adapters on each, saved as users have them.

`build(family, directory)` makes one family: `directory/base` is a Hugging Face model directory and
`directory/adapters/<name>` a PEFT directory for each adapter. The transformers + PEFT models stay in memory as the
judge, one adapter at a time.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.kernels.pages import Matrices
from worker.memory.layout import MODULES, AdapterLayout, ModelShape

NUM_LAYERS = 3
_SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "eos_token_id": 2,
    "bos_token_id": 1,
}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}

FAMILIES: Mapping[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)),
    "llama_linear_biases": lambda: LlamaForCausalLM(
        LlamaConfig(
            **_SIZES,
            num_key_value_heads=2,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 5000.0},
        )
    ),
    "llama3": lambda: LlamaForCausalLM(
        LlamaConfig(
            **_SIZES,
            num_key_value_heads=2,
            head_dim=32,
            tie_word_embeddings=True,
            rope_parameters={**_LLAMA3, "original_max_position_embeddings": 24, "rope_theta": 500.0},
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=9)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES, num_key_value_heads=2)),
    "qwen2_windows_yarn": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **_SIZES,
            num_key_value_heads=1,
            use_sliding_window=True,
            sliding_window=7,
            max_window_layers=1,
            rope_parameters={**_YARN, "rope_theta": 1000.0},
        )
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES, num_key_value_heads=2, head_dim=24)),
}

_ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: Mapping[str, dict[str, Any]] = {
    "everything": {"r": 8, "lora_alpha": 16, "target_modules": _ALL},
    "query_value": {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    "wide_mlp": {"r": 33, "lora_alpha": 20, "target_modules": ["gate_proj", "up_proj", "down_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 4,
        "target_modules": _ALL,
        "rank_pattern": {"q_proj": 9, "layers.1.mlp.down_proj": 1, "k_proj": 16},
        "alpha_pattern": {"q_proj": 27, "layers.2.self_attn.o_proj": 11},
    },
    "rank_stabilised": {"r": 5, "lora_alpha": 6, "use_rslora": True, "target_modules": ["k_proj", "o_proj", "up_proj"]},
    "some_layers": {"r": 7, "lora_alpha": 9, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [0, 2]},
    "excluded": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "exclude_modules": ["v_proj", "down_proj"]},
}


@dataclass(frozen=True)
class ZooAdapter:
    """One adapter: its PEFT directory, and its matrices as PEFT holds them."""

    name: str
    directory: Path
    layout: AdapterLayout
    matrices: Matrices


@dataclass(frozen=True)
class Zoo:
    """One family: the model's directory, its adapters, and the judge."""

    model_directory: Path
    adapters: Mapping[str, ZooAdapter]
    judge: PeftModel

    def logits(self, token_ids: list[int], adapter: str | None) -> Tensor:
        """What transformers + PEFT says with this adapter alone: `[len(token_ids), vocab]` float32 on the CPU."""
        if adapter is not None:
            self.judge.set_adapter(adapter)
        with torch.inference_mode(), self.judge.disable_adapter() if adapter is None else nullcontext():
            ids = torch.tensor([token_ids], device=self.judge.device)
            return self.judge(input_ids=ids, use_cache=False).logits[0].float().cpu()


def build(family: str, directory: Path) -> Zoo:
    """Builds and saves one family; the same every time."""
    torch.manual_seed(sorted(FAMILIES).index(family))
    base = FAMILIES[family]()
    _randomise(base, {"norm.weight": (1.0, 0.2), "layernorm.weight": (1.0, 0.2), "bias": (0.0, 0.3)})
    base.eval().save_pretrained(directory / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge: PeftModel | None = None
        for name, settings in ADAPTERS.items():
            config = LoraConfig(task_type="CAUSAL_LM", base_model_name_or_path=str(directory / "base"), **settings)
            if judge is None:
                judge = get_peft_model(base, config, adapter_name=name)
            else:
                judge.add_adapter(name, config)
        assert judge is not None
        _randomise(judge, {f"lora_{half}.{name}.weight": (0.0, 0.15) for half in "AB" for name in ADAPTERS})
        judge.eval().save_pretrained(directory / "adapters")
    shape = shape_of(base)
    adapters = {name: _adapter(judge, shape, name, directory / "adapters" / name) for name in ADAPTERS}
    return Zoo(directory / "base", adapters, judge)


def shape_of(model: PreTrainedModel) -> ModelShape:
    config = model.config
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
    )


def _randomise(model: torch.nn.Module, spreads: Mapping[str, tuple[float, float]]) -> None:
    """Draws the parameters whose names end so, which would otherwise be all ones or zeros and hide mistakes."""
    for parameter_name, parameter in model.named_parameters():
        for suffix, (mean, spread) in spreads.items():
            if parameter_name.endswith(suffix):
                parameter.data.normal_(mean, spread)


def _adapter(judge: PeftModel, shape: ModelShape, name: str, directory: Path) -> ZooAdapter:
    ranks = [[0] * len(MODULES) for _ in range(shape.num_layers)]
    scales = [[0.0] * len(MODULES) for _ in range(shape.num_layers)]
    matrices = {}
    for layer, block in enumerate(judge.base_model.model.model.layers):
        for index, module in enumerate(MODULES):
            part = block.self_attn if module in "qkvo" else block.mlp
            wrapped = getattr(part, f"{module}_proj")
            if name in getattr(wrapped, "lora_A", {}):
                a, b = wrapped.lora_A[name].weight.detach().clone(), wrapped.lora_B[name].weight.detach().clone()
                ranks[layer][index] = a.shape[0]
                scales[layer][index] = wrapped.scaling[name]
                matrices[layer, index] = (a, b)
    layout = AdapterLayout(shape, tuple(map(tuple, ranks)), tuple(map(tuple, scales)))
    return ZooAdapter(name, directory, layout, matrices)
