"""What config.json may say, and what each refusal names."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker_model.model_directories import CONFIGS, write_config
from worker.model.config import read_config
from worker.model.errors import ModelConfigInvalid, ModelNotFound, ModelUnsupported


@pytest.mark.parametrize("family", CONFIGS)
def test_families_and_what_they_assume(family: str, tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path, family))
    assert config.family == family
    assert config.context_length == 64
    assert config.rope.theta == 10000.0
    assert config.dtype == "float32"
    assert not config.tied_embeddings
    assert config.shape.head_dim == (128 if family == "qwen3" else 4)
    assert config.shape.num_kv_heads == (4 if family == "llama" else 2)
    assert config.traits.windows == ((4096, 4096) if family == "mistral" else (None, None))
    assert config.traits.qkv_bias == (family == "qwen2")
    assert config.traits.qk_norm == (family == "qwen3")


def test_keys_of_transformers_4_and_5(tmp_path: Path) -> None:
    scaling = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    old = write_config(
        tmp_path / "4", torch_dtype="bfloat16", rope_theta=7.0, rope_scaling={"rope_type": "llama3", **scaling}
    )
    new = write_config(
        tmp_path / "5", dtype="bfloat16", rope_parameters={"rope_type": "llama3", "rope_theta": 7.0, **scaling}
    )
    oldest = write_config(
        tmp_path / "3", torch_dtype="bfloat16", rope_theta=7.0, rope_scaling={"type": "llama3", **scaling}
    )
    assert read_config(old) == read_config(new) == read_config(oldest)
    assert read_config(new).dtype == "bfloat16"


def test_llama_biases(tmp_path: Path) -> None:
    traits = read_config(write_config(tmp_path, attention_bias=True, mlp_bias=True)).traits
    assert (traits.qkv_bias, traits.o_bias, traits.mlp_bias) == (True, True, True)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"sliding_window": 8}, (None, None)),
        ({"sliding_window": 8, "use_sliding_window": True}, (None, None)),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, (8, 8)),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}, (None, 8)),
        (
            {
                "sliding_window": 8,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (8, None),
        ),
    ],
)
def test_windows_of_qwen(changes: dict[str, Any], windows: tuple[int | None, ...], tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, "qwen2", **changes)).traits.windows == windows


def test_window_of_mistral_may_be_null(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, "mistral", sliding_window="null")).traits.windows == (None, None)


def test_end_of_sequence_tokens_of_both_files(tmp_path: Path) -> None:
    write_config(tmp_path, eos_token_id=4)
    assert read_config(tmp_path).eos_token_ids == (4,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}))
    assert read_config(tmp_path).eos_token_ids == (2, 4, 7)


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ("qwen3", {"num_experts": 8}, "mixture-of-experts"),
        ("mistral", {"num_local_experts": 8}, "mixture-of-experts"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("llama", {"torch_dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic' depends on the longest sequence"),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, "'longrope' depends on the length"),
        ("llama", {"rope_scaling": {"rope_type": "spiral"}}, "'spiral' is unknown"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}}, "mrope_section"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("mistral", {"layer_types": ["full_attention", "full_attention"]}, "layer_types"),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["full_attention", "linear_attention"]},
            "linear_attention",
        ),
    ],
)
def test_the_unsupported_is_named(family: str, changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported) as caught:
        read_config(write_config(tmp_path, family, **changes))
    assert named in caught.value.message
    assert caught.value.metadata["field"]


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        ("llama", {"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ("llama", {"hidden_size": 18}, "hidden_size is 18"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers"),
        ("llama", {"num_key_value_heads": 3}, "num_key_value_heads is 3"),
        ("mistral", {"num_key_value_heads": None}, "num_key_value_heads is missing"),
        ("llama", {"head_dim": 3}, "head_dim is 3"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps"),
        ("llama", {"eos_token_id": 11}, "eos_token_id 11"),
        ("llama", {"eos_token_id": "</s>"}, "eos_token_id"),
        ("llama", {"attention_bias": "yes"}, "attention_bias"),
        ("llama", {"architectures": None}, "architectures"),
        ("llama", {"model_type": "mistral"}, "model_type"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}},
            "low_freq_factor",
        ),
        ("llama", {"rope_scaling": [1]}, "rope_scaling"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types names 1 layers of 2"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "use_sliding_window"),
    ],
)
def test_the_impossible_is_named(family: str, changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ModelConfigInvalid) as caught:
        read_config(write_config(tmp_path, family, **changes))
    assert named in caught.value.message
    assert caught.value.metadata["field"]


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is not a directory"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        read_config(tmp_path)
    for content in (b"{", b"[1]", b"\xff\xfe"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ModelConfigInvalid, match="JSON"):
            read_config(tmp_path)
    write_config(tmp_path)
    (tmp_path / "generation_config.json").write_text("no")
    with pytest.raises(ModelConfigInvalid, match="generation_config"):
        read_config(tmp_path)
