"""What a configuration targets, with which rank and scale."""

import dataclasses
import json
import math
import re
import time

import pytest

from adapter_store.base_model import FAMILIES
from adapter_store.config import Limits
from adapter_store.errors import AdapterConfigInvalid, AdapterNotFinite, AdapterUnsupported
from adapter_store.peft.config import parse_settings
from adapter_store.peft.modules import module_names
from adapter_store.peft.targets import plan
from adapter_store.types import MODULES, Delta, Module, Site
from tests.unit.adapter_store.peft_directories import HF_CONFIG, MODEL, PEFT_NAMES, adapter_config

ALL = {(layer, module) for layer in range(3) for module in MODULES}


def planned(timeout_s: float = 10.0, **changes: object) -> tuple[Delta, ...]:
    return plan(
        parse_settings(json.dumps(adapter_config(**changes)).encode(), Limits()), MODEL, regex_timeout_s=timeout_s
    )


def sites(**changes: object) -> set[tuple[int, Module]]:
    return {(delta.site.layer, delta.site.module) for delta in planned(**changes)}


def of(*modules: Module, layers: tuple[int, ...] = (0, 1, 2)) -> set[tuple[int, Module]]:
    return {(layer, module) for layer in layers for module in modules}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"target_modules": ["q_proj"]}, of(Module.Q)),
        ({"target_modules": None}, of(Module.Q, Module.V)),
        ({"target_modules": "all-linear"}, ALL),
        ({"target_modules": "All-Linear"}, ALL),
        ({"target_modules": ["q_proj", "not_there"]}, of(Module.Q)),
        ({"target_modules": ["self_attn.o_proj", "mlp.up_proj"]}, of(Module.O, Module.UP)),
        ({"target_modules": ["model.layers.1.mlp.down_proj"]}, of(Module.DOWN, layers=(1,))),
        ({"target_modules": ["1.mlp.down_proj"]}, of(Module.DOWN, layers=(1,))),
        ({"target_modules": ["oj", "proj", "_proj", "k_proj"]}, of(Module.K)),
        ({"target_modules": r".*\.(q|k)_proj"}, of(Module.Q, Module.K)),
        ({"target_modules": r"model\.layers\.[02]\.mlp\.gate_proj"}, of(Module.GATE, layers=(0, 2))),
        ({"target_modules": r".*q_proj", "exclude_modules": r".*\.1\..*"}, of(Module.Q, layers=(0, 2))),
        ({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj", "k_proj"]}, ALL - of(Module.UP, Module.K)),
        ({"exclude_modules": ["model.layers.0.self_attn.q_proj"]}, of(Module.Q, Module.V) - {(0, Module.Q)}),
        ({"exclude_modules": "q_proj"}, of(Module.Q, Module.V)),  # an expression has to match the whole name
        ({"layers_to_transform": 1}, of(Module.Q, Module.V, layers=(1,))),
        ({"layers_to_transform": [0, 2, 7]}, of(Module.Q, Module.V, layers=(0, 2))),
        ({"layers_to_transform": []}, of(Module.Q, Module.V)),
        ({"layers_to_transform": 2, "layers_pattern": "layers"}, of(Module.Q, Module.V, layers=(2,))),
        ({"layers_to_transform": 2, "layers_pattern": ["h", "layers"]}, of(Module.Q, Module.V, layers=(2,))),
        ({"layers_to_transform": 2, "layers_pattern": "l.y(ers|z)"}, of(Module.Q, Module.V, layers=(2,))),
        # A full name is not subject to layers_to_transform.
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj", "k_proj"], "layers_to_transform": 1},
            {(0, Module.Q), (1, Module.K)},
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # a set prints in any order
)
def test_targets(changes: dict[str, object], expected: set[tuple[int, Module]]) -> None:
    assert sites(**changes) == expected


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
        ({"target_modules": ["norm"]}, "model.norm"),
        ({"target_modules": ["self_attn"]}, "self_attn"),
        ({"target_modules": ["self_attn"], "layers_to_transform": 1}, "model.layers.1.self_attn"),
        ({"target_modules": ".*"}, "model"),
        ({"target_modules": ".*layers.*"}, "model.layers"),
        (
            {
                "target_modules": ["q_proj"] + [f"model.layers.{i}.mlp.up_proj" for i in range(20)],
                "layers_to_transform": 1,
            },
            "ambiguous",
        ),
    ],
    ids=str,
)
def test_other_targets_are_not_supported(changes: dict[str, object], word: str) -> None:
    with pytest.raises(AdapterUnsupported, match=re.escape(word)):
        planned(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": []},
        {"target_modules": ["nothing"]},
        {"target_modules": "q_proj"},
        {"exclude_modules": ["q_proj", "v_proj"]},
        {"layers_to_transform": 9},
        {"layers_to_transform": 1, "layers_pattern": "h"},
        {"target_modules": "(q_proj"},
        {"target_modules": "q{99999999999999999999}"},
        {"exclude_modules": "*"},
        {"rank_pattern": {"(": 2}},
        {"alpha_pattern": {"\\": 2}},
        {"layers_to_transform": 1, "layers_pattern": "(?P<idx>layers)"},
    ],
    ids=str,
)
def test_nonsense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(AdapterConfigInvalid):
        planned(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "((((m|o|d|e|l|\\.|\\w)+)+)+)+!"},
        {"rank_pattern": {"(\\w+)+(\\w+)+(\\w+)+(\\w+)+!": 2}},
        {"layers_to_transform": 1, "layers_pattern": "((\\w|\\.)+)+!"},
    ],
    ids=str,
)
def test_hostile_expression_is_stopped(changes: dict[str, object]) -> None:
    begin = time.monotonic()
    with pytest.raises(AdapterConfigInvalid, match="took"):
        planned(timeout_s=0.5, **changes)
    assert time.monotonic() - begin < 5


def test_ranks_and_scales_follow_the_first_pattern_that_matches() -> None:
    deltas = planned(
        target_modules=["q_proj", "k_proj", "down_proj"],
        r=4,
        lora_alpha=6,
        rank_pattern={"layers.1.self_attn.q_proj": 7, "q_proj": 2, ".*": 9, "down_proj": 3},
        alpha_pattern={"^model.layers.2": 5, "^model.layers.2.mlp.down_proj": 1.5, "own_proj": 8},
    )
    found = {delta.site: (delta.rank, delta.scale) for delta in deltas}
    assert found[Site(1, Module.Q)] == (7, 6 / 7)
    assert found[Site(0, Module.Q)] == (2, 3.0)
    assert found[Site(0, Module.K)] == (9, 6 / 9)
    assert found[Site(0, Module.DOWN)] == (9, 6 / 9)  # a pattern matches from a dot on, to the end
    assert found[Site(2, Module.DOWN)] == (9, 1.5 / 9)


def test_rank_stabilised_scale() -> None:
    assert {delta.scale for delta in planned(r=3, lora_alpha=5, use_rslora=True)} == {5 / math.sqrt(3)}


@pytest.mark.parametrize("sign", [1, -1])
def test_scale_beyond_float32_is_refused(sign: int) -> None:
    assert planned(r=1, lora_alpha=sign * 3.4e38)
    with pytest.raises(AdapterNotFinite):
        planned(r=1, lora_alpha=sign * 3.41e38)


@pytest.mark.parametrize("family", FAMILIES)
def test_module_tree_is_that_of_transformers(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    config = transformers.AutoConfig.for_model(**{**HF_CONFIG, "model_type": family, "vocab_size": 8})
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    names = module_names(dataclasses.replace(MODEL, family=family))
    assert {name.key for name in names} == {key for key, _ in model.named_modules() if key}
    assert {name.key for name in names if name.site} == {
        key for key, module in model.named_modules() if isinstance(module, torch.nn.Linear) and key != "lm_head"
    }
    for name in names:
        if name.site:
            assert name.key.endswith(PEFT_NAMES[name.site.module])
            weight = model.get_submodule(name.key).weight
            shape = MODEL.shape
            assert weight.shape == (shape.out_features(name.site.module), shape.in_features(name.site.module))
