"""The base models and adapters that workloads are served with; weights are dummies of the real shapes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.memory.layout import MODULES, AdapterLayout, ModelShape

_QKVO = ("q", "k", "v", "o")


@dataclass(frozen=True)
class Setup:
    """A base model's shape, and its adapters': ranks in turn, on some modules of every layer."""

    name: str
    shape: ModelShape
    vocab_size: int
    ranks: tuple[int, ...]
    targets: tuple[str, ...]
    context_length: int = 4096

    def layout(self, adapter: int) -> AdapterLayout:
        """Of the adapter with this number."""
        rank = self.ranks[adapter % len(self.ranks)]
        ranks = tuple(rank if module in self.targets else 0 for module in MODULES)
        scales = tuple(1.0 if rank else 0.0 for rank in ranks)
        return AdapterLayout(self.shape, (ranks,) * self.shape.num_layers, (scales,) * self.shape.num_layers)

    def write_config(self, directory: Path) -> None:
        """Writes the config.json of such a model."""
        shape = self.shape
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": shape.num_heads,
            "num_key_value_heads": shape.num_kv_heads,
            "head_dim": shape.head_dim,
            "max_position_embeddings": self.context_length,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "eos_token_id": None,
        }
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


_LLAMA_7B = ModelShape(
    num_layers=32, hidden_size=4096, num_heads=32, num_kv_heads=32, head_dim=128, intermediate_size=11008
)
_LLAMA_13B = ModelShape(
    num_layers=40, hidden_size=5120, num_heads=40, num_kv_heads=40, head_dim=128, intermediate_size=13824
)
_LLAMA_3_8B = ModelShape(
    num_layers=32, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128, intermediate_size=14336
)
_TINY = ModelShape(num_layers=2, hidden_size=64, num_heads=4, num_kv_heads=2, head_dim=16, intermediate_size=128)
_SMALL = ModelShape(num_layers=4, hidden_size=1024, num_heads=8, num_kv_heads=2, head_dim=128, intermediate_size=2816)

SETUPS: Mapping[str, Setup] = {
    setup.name: setup
    for setup in (
        Setup("S1", _LLAMA_7B, 32000, (8,), _QKVO),
        Setup("S1-rank4", _LLAMA_7B, 32000, (4,), _QKVO),
        Setup("S2", _LLAMA_7B, 32000, (8, 16, 32, 64), _QKVO),
        Setup("S4", _LLAMA_13B, 32000, (16, 32, 64), _QKVO),
        Setup("M2", _LLAMA_3_8B, 128256, (8, 16, 32, 64), MODULES),
        Setup("small", _SMALL, 32000, (8, 16, 32, 64), MODULES),
        Setup("tiny", _TINY, 256, (2, 8), MODULES, context_length=1024),
    )
}
