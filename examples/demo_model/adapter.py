"""One adapter: its PEFT configuration, its training on the frozen base, its directory."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from examples.demo_model.adapter_recipe import AdapterRecipe
from examples.demo_model.corpus import adapter_rows
from examples.demo_model.fitting import Schedule, fit

BASE_NAME = "demo"


def lora_config(recipe: AdapterRecipe) -> LoraConfig:
    """The recipe in PEFT's words."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=recipe.lora_alpha,
        target_modules=list(recipe.target_modules),
        layers_to_transform=None if recipe.layers is None else list(recipe.layers),
        rank_pattern=dict(recipe.rank_pattern),
        alpha_pattern=dict(recipe.alpha_pattern),
        use_rslora=recipe.rslora,
    )


def train_adapter(
    task: str,
    recipe: AdapterRecipe,
    schedule: Schedule,
    num_rows: int,
    *,
    base: Path,
    folder: Path,
    seed: int,
    device: str,
) -> None:
    """Fine-tunes an adapter for `task` on the base as it is stored, and writes a PEFT directory."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).to(device)
    adapted = get_peft_model(model, lora_config(recipe))
    fit(adapted, adapter_rows(task, num_rows, seed), schedule, seed=seed, label=task)
    adapted.save_pretrained(folder)
    _settle(folder, recipe)


def _settle(folder: Path, recipe: AdapterRecipe) -> None:
    """Leaves nothing to chance or place: no model card, the base by name, modules in order, the recipe's dtype."""
    (folder / "README.md").unlink(missing_ok=True)
    config_path = folder / "adapter_config.json"
    config = json.loads(config_path.read_text())
    config["base_model_name_or_path"] = BASE_NAME
    config["target_modules"] = sorted(config["target_modules"])
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights_path = folder / "adapter_model.safetensors"
    dtype = getattr(torch, recipe.dtype)
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in load_file(weights_path).items()}
    save_file(weights, weights_path, metadata={"format": "pt"})
