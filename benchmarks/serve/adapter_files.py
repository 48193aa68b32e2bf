"""A setup's adapters as PEFT directories, for those who read files; made as fast as they can be written."""

import json
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.serve.setups import Setup
from worker.memory.layout import MODULES

_SHIFTS = 1 << 20  # elements by which adapters' numbers may be shifted against each other
_PARENTS = {"q": "self_attn", "k": "self_attn", "v": "self_attn", "o": "self_attn"}  # of the others: mlp


def write_peft(setup: Setup, adapter: int, folder: Path) -> None:
    """Writes the adapter with this number: small random bf16 numbers, other bytes than those of any other number."""
    rank = setup.ranks[adapter % len(setup.ranks)]
    header: dict[str, dict[str, object]] = {}
    end = 0
    for layer in range(setup.shape.num_layers):
        for index, module in enumerate(MODULES):
            if module not in setup.targets:
                continue
            path = f"base_model.model.model.layers.{layer}.{_PARENTS.get(module, 'mlp')}.{module}_proj"
            shapes = {"A": [rank, setup.shape.in_features(index)], "B": [setup.shape.out_features(index), rank]}
            for half, shape in shapes.items():
                start, end = end, end + 2 * shape[0] * shape[1]
                header[f"{path}.lora_{half}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    first = 2 * (adapter * 7919 % _SHIFTS)
    folder.mkdir(parents=True)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.write(_numbers(end + 2 * _SHIFTS)[first : first + end])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": setup.name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": [f"{module}_proj" for module in setup.targets],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


@lru_cache(maxsize=4)
def _numbers(num_bytes: int) -> memoryview:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.empty(num_bytes // 2, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)
    return memoryview(numbers.view(torch.uint8).numpy().tobytes())
