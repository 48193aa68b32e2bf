"""Every setting of adapter_config.json is honoured, harmless, or refused by name."""

import dataclasses
import json
import re

import pytest

from adapter_store.config import Limits
from adapter_store.errors import AdapterConfigInvalid, AdapterTooLarge, AdapterUnsupported, StoreError
from adapter_store.peft.config import parse_settings
from adapter_store.peft.settings import HARMLESS, HONOURED, REFUSED
from tests.unit.adapter_store.peft_directories import adapter_config

LIMITS = Limits(max_rank=64, max_patterns=5, max_pattern_chars=50, max_config_bytes=4000)

REFUSALS = [
    # a setting, its error, a word of the message that names it
    ({"peft_type": "LOHA"}, AdapterUnsupported, "LOHA"),
    ({"peft_type": None}, AdapterConfigInvalid, "peft_type"),
    ({"task_type": "SEQ_CLS"}, AdapterUnsupported, "SEQ_CLS"),
    ({"task_type": "FEATURE_EXTRACTION"}, AdapterUnsupported, "FEATURE_EXTRACTION"),
    ({"use_dora": True}, AdapterUnsupported, "DoRA"),
    ({"bias": "all"}, AdapterUnsupported, "bias"),
    ({"bias": "lora_only"}, AdapterUnsupported, "bias"),
    ({"lora_bias": True}, AdapterUnsupported, "lora_bias"),
    ({"modules_to_save": ["lm_head"]}, AdapterUnsupported, "modules_to_save"),
    ({"trainable_token_indices": [1]}, AdapterUnsupported, "trainable_token_indices"),
    ({"trainable_token_indices": []}, AdapterUnsupported, "trainable_token_indices"),
    ({"target_parameters": ["mlp.experts"]}, AdapterUnsupported, "target_parameters"),
    ({"alora_invocation_tokens": [5]}, AdapterUnsupported, "aLoRA"),
    ({"layer_replication": [[0, 2], [1, 3]]}, AdapterUnsupported, "layer replication"),
    ({"megatron_config": {}}, AdapterUnsupported, "Megatron"),
    ({"runtime_config": {"unheard_of": 1}}, AdapterUnsupported, "runtime_config"),
    ({"use_qalora": True}, AdapterUnsupported, "QA-LoRA"),
    ({"use_bdlora": {}}, AdapterUnsupported, "BD-LoRA"),
    ({"arrow_config": {}}, AdapterUnsupported, "Arrow"),
    ({"velora_config": {}}, AdapterUnsupported, "VeLoRA"),
    ({"kasa_config": {}}, AdapterUnsupported, "KaSA"),
    ({"monteclora_config": {}}, AdapterUnsupported, "MonteCLoRA"),
    ({"ensure_weight_tying": True}, AdapterUnsupported, "tying"),
    ({"loftq_config": {"loftq_bits": 4}}, AdapterUnsupported, "LoftQ"),
    ({"corda_config": {}}, AdapterUnsupported, "CorDA"),
    ({"lora_ga_config": {}}, AdapterUnsupported, "LoRA-GA"),
    *(
        ({"init_lora_weights": name}, AdapterUnsupported, name)
        for name in ("pissa", "pissa_niter_16", "olora", "OLoRA", "loftq", "corda", "lora_ga", "from_the_future")
    ),
    ({"init_lora_weights": 1}, AdapterUnsupported, "init_lora_weights"),
    ({"init_lora_weights": ["gaussian"]}, AdapterUnsupported, "init_lora_weights"),
    ({"setting_from_the_future": {"on": True}}, AdapterUnsupported, "setting_from_the_future"),
    ({"setting_from_the_future": 0}, AdapterUnsupported, "setting_from_the_future"),
    ({"r": 0}, AdapterConfigInvalid, "r must be"),
    ({"r": None}, AdapterConfigInvalid, "r must be"),
    ({"r": True}, AdapterConfigInvalid, "r must be"),
    ({"r": 4.0}, AdapterConfigInvalid, "r must be"),
    ({"r": 65}, AdapterTooLarge, "65"),
    ({"lora_alpha": "16"}, AdapterConfigInvalid, "lora_alpha"),
    ({"lora_alpha": 10**400}, AdapterConfigInvalid, "lora_alpha"),
    ({"use_rslora": "false"}, AdapterConfigInvalid, "use_rslora"),
    ({"lora_dropout": "0.1"}, AdapterConfigInvalid, "lora_dropout"),
    ({"fan_in_fan_out": "no"}, AdapterConfigInvalid, "fan_in_fan_out"),
    ({"target_modules": {"q_proj": 1}}, AdapterConfigInvalid, "target_modules"),
    ({"target_modules": [1]}, AdapterConfigInvalid, "target_modules"),
    ({"target_modules": ["q"] * 6}, AdapterTooLarge, "target_modules"),
    ({"target_modules": "q" * 51}, AdapterTooLarge, "target_modules"),
    ({"exclude_modules": 3}, AdapterConfigInvalid, "exclude_modules"),
    ({"rank_pattern": ["q_proj"]}, AdapterConfigInvalid, "rank_pattern"),
    ({"rank_pattern": {"q_proj": 0}}, AdapterConfigInvalid, "rank_pattern['q_proj']"),
    ({"rank_pattern": {"q_proj": "8"}}, AdapterConfigInvalid, "rank_pattern['q_proj']"),
    ({"rank_pattern": {"q_proj": 65}}, AdapterTooLarge, "rank_pattern['q_proj']"),
    ({"rank_pattern": {str(i): 1 for i in range(6)}}, AdapterTooLarge, "rank_pattern"),
    ({"alpha_pattern": {"q_proj": None}}, AdapterConfigInvalid, "alpha_pattern['q_proj']"),
    ({"layers_to_transform": [0, "1"]}, AdapterConfigInvalid, "layers_to_transform"),
    ({"layers_to_transform": True}, AdapterConfigInvalid, "layers_to_transform"),
    ({"layers_pattern": ["layers"]}, AdapterConfigInvalid, "layers_pattern"),
    ({"target_modules": "all-linear", "layers_to_transform": 1}, AdapterConfigInvalid, "list"),
    ({"target_modules": ".*q_proj", "layers_pattern": "layers"}, AdapterConfigInvalid, "list"),
    ({"base_model_name_or_path": 3}, AdapterConfigInvalid, "base_model_name_or_path"),
]


@pytest.mark.parametrize(("changes", "error", "word"), REFUSALS, ids=[json.dumps(r[0])[:60] for r in REFUSALS])
def test_setting_is_refused_by_name(changes: dict[str, object], error: type[StoreError], word: str) -> None:
    with pytest.raises(error, match=re.escape(word)):
        parse_settings(json.dumps(adapter_config(**changes)).encode(), LIMITS)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"peft_type": "LORA", "lora_alpha": NaN}',
        b'{"peft_type": "LORA", "peft_type": "LORA"}',
        b'{"peft_type": "LORA", "rank_pattern": {"q": 1, "q": 2}}',
        b"[" * 3000,
        b'{"peft_type": "LORA", "r": ' + b"9" * 3900 + b"}",
        b'{"peft_type"',
    ],
)
def test_what_is_not_a_configuration_is_refused(content: bytes) -> None:
    with pytest.raises((AdapterConfigInvalid, AdapterTooLarge)):
        parse_settings(content, LIMITS)


def test_long_file_is_refused() -> None:
    with pytest.raises(AdapterTooLarge):
        parse_settings(b" " * 4001, LIMITS)


@pytest.mark.parametrize(
    "changes",
    [{"init_lora_weights": value} for value in (True, False, None, "gaussian", "orthogonal", "eva", "mica")]
    + [
        {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva"},
        {"lora_dropout": 0.3},
        {"fan_in_fan_out": True},
        {"inference_mode": False},
        {"task_type": "CAUSAL_LM"},
        {"auto_mapping": {"base_model_class": "LlamaForCausalLM"}},
        {"megatron_core": "megatron.core"},
        {"qalora_group_size": 16, "use_qalora": False},
        {"peft_version": "0.99.0", "revision": "main"},
        {"loftq_config": {}, "modules_to_save": [], "layer_replication": None, "target_parameters": []},
        {"runtime_config": {"ephemeral_gpu_offload": True}},
        {"setting_from_the_future": None},
        {"a_flag_from_the_future": False, "a_list_from_the_future": [], "a_text_from_the_future": ""},
        {"bias": "none"},
        {"layers_to_transform": [], "layers_pattern": "layers"},
    ],
)
def test_harmless_setting_changes_nothing(changes: dict[str, object]) -> None:
    plain = parse_settings(json.dumps(adapter_config()).encode(), LIMITS)
    parsed = parse_settings(json.dumps(adapter_config(**changes)).encode(), LIMITS)
    assert dataclasses.replace(parsed, layers_pattern=()) == plain


def test_defaults_are_those_of_peft() -> None:
    settings = parse_settings(b'{"peft_type": "LORA"}', LIMITS)
    assert (settings.rank, settings.alpha, settings.use_rslora) == (8, 8.0, False)
    assert settings.target_modules is None
    assert settings.base_model is None


def test_patterns_keep_the_order_of_the_file() -> None:
    config = adapter_config(rank_pattern={"v_proj": 2, "a": 3, "q_proj": 1})
    assert parse_settings(json.dumps(config).encode(), LIMITS).rank_pattern == (("v_proj", 2), ("a", 3), ("q_proj", 1))


def test_tables_cover_every_field_of_peft() -> None:
    lora_config = pytest.importorskip("peft").LoraConfig
    fields = {field.name for field in dataclasses.fields(lora_config)}
    assert fields <= HONOURED | HARMLESS.keys() | REFUSED.keys()
    assert len(HONOURED) + len(HARMLESS) + len(REFUSED) == len(HONOURED | HARMLESS.keys() | REFUSED.keys())
