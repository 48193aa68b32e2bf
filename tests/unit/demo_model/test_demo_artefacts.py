"""What is committed is small, complete, and what the recipe says."""

import json

import pytest
from safetensors import safe_open

from examples.demo_model.adapter import BASE_NAME, lora_config
from examples.demo_model.base_model import base_config
from examples.demo_model.prompts import PER_ADAPTER, PROMPTS_FILE, demo_prompts, read_prompts
from examples.demo_model.report import BEGIN_MARK, END_MARK, accuracy_section
from examples.demo_model.tasks import TASKS
from examples.demo_model.tokenizer import END_ID

FOLDER = PROMPTS_FILE.parent
EVALUATION = json.loads((FOLDER / "evaluation.json").read_text())


def _bytes(*patterns):
    return sum(path.stat().st_size for pattern in patterns for path in FOLDER.glob(pattern))


def test_sizes():
    assert _bytes("base/*.safetensors") <= 8_000_000
    assert _bytes("base/*", "adapters/*/*", "*.json*") <= 16_000_000


def test_base_is_the_recipes():
    config = json.loads((FOLDER / "base" / "config.json").read_text())
    expected = base_config().to_dict()
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_key_value_heads", "vocab_size"):
        assert config[key] == expected[key]
    assert config["architectures"] == ["LlamaForCausalLM"]
    generation = json.loads((FOLDER / "base" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == END_ID


def test_there_is_an_adapter_for_every_task():
    assert {path.name for path in (FOLDER / "adapters").iterdir()} == set(TASKS)
    assert len(TASKS) >= 16
    assert {2, 64} <= {task.adapter.rank for task in TASKS.values()}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_adapter_is_the_recipes(task):
    folder = FOLDER / "adapters" / task.name
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((folder / "adapter_config.json").read_text())
    expected = lora_config(task.adapter)
    for key in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform"):
        assert config[key] == getattr(expected, key)
    assert set(config["target_modules"]) == set(task.adapter.target_modules)
    assert config["base_model_name_or_path"] == BASE_NAME
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        dtypes = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118 - not a mapping
    assert dtypes == {{"float32": "F32", "bfloat16": "BF16"}[task.adapter.dtype]}


def test_adapters_differ_in_shape():
    recipes = [task.adapter for task in TASKS.values()]
    assert any(recipe.rslora for recipe in recipes)
    assert any(recipe.layers for recipe in recipes)
    assert any(recipe.rank_pattern and recipe.alpha_pattern for recipe in recipes)
    assert len({recipe.target_modules for recipe in recipes}) >= 6


def test_fixed_prompts_are_the_first_of_their_seed():
    prompts = read_prompts()
    assert prompts == list(demo_prompts())
    for name in TASKS:
        assert sum(prompt.adapter == name for prompt in prompts) == PER_ADAPTER
    assert sum(prompt.adapter is None for prompt in prompts) >= 20
    assert len({(prompt.adapter, prompt.prompt) for prompt in prompts}) == len(prompts)


def test_the_evaluation_is_good():
    assert EVALUATION["demo_prompts"] == {"total": len(read_prompts()), "wrong": []}
    assert all(row["accuracy"] >= 0.995 for row in EVALUATION["adapters"].values())
    assert all(row["closest_other_accuracy"] < 0.1 for row in EVALUATION["adapters"].values())
    assert all(share >= 0.995 for share in EVALUATION["base"].values())


def test_readme_has_the_evaluation():
    section = (FOLDER / "README.md").read_text().split(BEGIN_MARK)[1].split(END_MARK)[0]
    assert section.strip() == accuracy_section(EVALUATION)
