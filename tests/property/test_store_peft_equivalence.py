"""PEFT's own semantics: what PEFT computes for a directory is what the store's canonical file says, or it is refused.

Random configurations are given to PEFT on a tiny model. If PEFT takes one, the canonical weights of what it saves must
give each module PEFT's own delta, and no other module any. If PEFT refuses one, so must the store.
"""

import copy
import io
import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from adapter_store.config import Limits
from adapter_store.errors import AdapterConfigInvalid, AdapterUnsupported
from adapter_store.peft.config import parse_settings
from adapter_store.peft.directory import canonicalise
from adapter_store.peft.targets import plan
from tests.unit.adapter_store.peft_directories import HF_CONFIG, MODEL, PEFT_NAMES, read_canonical

torch.set_num_threads(1)

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FULL_NAMES = [f"model.layers.{layer}.{name}" for layer in range(3) for name in PEFT_NAMES.values()]
ODD_NAMES = [
    "self_attn.q_proj",
    "1.mlp.up_proj",
    "layers.2.self_attn.v_proj",
    "roj",
    "embed_tokens",
    "lm_head",
    "mlp",
    "",
]
EXPRESSIONS = [
    r".*\.(q|v)_proj",
    r".*layers\.[01]\..*(gate|down)_proj",
    r"model\.layers\.\d+\.self_attn\.k_proj",
    r".*_proj",
    "all-linear",
    "ALL-LINEAR",
    r".*",
    r"q_proj",
    r".*\.mlp",
    "",
]
PATTERNS = [
    *LINEARS,
    "layers.1.self_attn.q_proj",
    "model.layers.0.mlp.up_proj",
    r"^model\.layers\.2\..*",
    r".*\.mlp\..*",
    r"(k|v)_proj",
    r"layers.\d.self_attn.o_proj",
    "proj",
    "mlp",
    "",
]


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**HF_CONFIG, vocab_size=16))


names = st.one_of(
    st.lists(st.sampled_from(LINEARS), min_size=1, max_size=7, unique=True),
    st.lists(st.sampled_from(LINEARS + FULL_NAMES), min_size=1, max_size=6, unique=True),
    st.lists(st.sampled_from(FULL_NAMES), min_size=19, max_size=21, unique=True),
    st.lists(st.sampled_from(LINEARS + ODD_NAMES), max_size=3, unique=True),
)
alphas = st.one_of(st.integers(1, 40), st.floats(0.1, 9.0))


def patterns(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    # PEFT sorts what it saves, and the order counts: only what is sorted means the same after saving.
    return st.dictionaries(st.sampled_from(PATTERNS), values, max_size=4).map(
        lambda entries: dict(sorted(entries.items()))
    )


configs = st.fixed_dictionaries(
    {
        "r": st.integers(1, 9),
        "lora_alpha": alphas,
        "use_rslora": st.booleans(),
        "target_modules": st.one_of(names, names, st.sampled_from(EXPRESSIONS), st.none()),
    },
    optional={
        "rank_pattern": patterns(st.integers(1, 9)),
        "alpha_pattern": patterns(alphas),
        "exclude_modules": st.one_of(
            st.lists(st.sampled_from(LINEARS + FULL_NAMES), max_size=3, unique=True),
            st.sampled_from([r".*\.1\..*", r".*mlp.*", "q_proj", ".*", ""]),
        ),
        "layers_to_transform": st.one_of(st.integers(0, 4), st.lists(st.integers(0, 3), max_size=3)),
        "layers_pattern": st.sampled_from(["layers", "h", ["layers"], ["h", "layers"], r"l\w+", [], ""]),
        "fan_in_fan_out": st.booleans(),
        "lora_dropout": st.sampled_from([0.0, 0.5]),
        "init_lora_weights": st.sampled_from([True, False, "gaussian"]),
        "bias": st.just("none"),
        "task_type": st.sampled_from(["CAUSAL_LM", None]),
    },
)


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(config=configs, half_precision=st.sampled_from([None, torch.bfloat16, torch.float16]), seed=st.integers(0, 99))
def test_canonical_weights_mean_what_peft_computes(
    base: LlamaForCausalLM, config: dict[str, Any], half_precision: torch.dtype | None, seed: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapted = adapt(base, config, seed)
        if adapted is None:
            event("refused by PEFT")
            refuses(config)
            return
        if half_precision is not None:
            adapted = adapted.to(half_precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted.save_pretrained(folder)
        sink = io.BytesIO()
        try:
            canonicalise(folder, MODEL, "demo", Limits(), sink)
        except AdapterUnsupported as refusal:
            event("refused by the store")
            reason = refusal.message
        else:
            reason = None
        if reason is not None:
            assert re.search("ambiguous|embed_tokens|lm_head", reason)
            return
        event("served")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)
        assert_same_deltas(loaded, sink.getvalue())
        assert_same_plan(config, folder)


def adapt(base: LlamaForCausalLM, config: dict[str, Any], seed: int) -> peft.PeftModel | None:
    """The model with a random adapter, or None if PEFT refuses the configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapted = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**copy.deepcopy(config)))
        except (ValueError, AttributeError, TypeError):
            return None
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            parameter.data = torch.randint(-8, 9, parameter.shape, generator=generator) / 4  # exact in every dtype
    return adapted


def refuses(config: dict[str, Any]) -> None:
    with pytest.raises((AdapterConfigInvalid, AdapterUnsupported)):
        planned({"peft_type": "LORA", **config})


def planned(config: dict[str, Any]) -> Any:
    return plan(parse_settings(json.dumps(config).encode(), Limits()), MODEL, regex_timeout_s=10)


def assert_same_plan(config: dict[str, Any], folder: Path) -> None:
    """The configuration as written by hand means the same as the one that PEFT saved, targets resolved."""
    try:
        by_hand = planned({"peft_type": "LORA", **config})
    except AdapterUnsupported:  # ambiguous as written, and no longer so once PEFT has shortened the targets
        return
    assert by_hand == planned(json.loads((folder / "adapter_config.json").read_text()))


def assert_same_deltas(adapted: peft.PeftModel, content: bytes) -> None:
    meaning, tensors = read_canonical(content)
    found = {
        site: scale * (matrix(*tensors[f"{site}.lora_B"]) @ matrix(*tensors[f"{site}.lora_A"]))
        for site, scale in meaning["scales"].items()
    }
    assert len(tensors) == 2 * len(found)
    expected = {}
    for key, module in adapted.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            layer, _, name = key.removeprefix("base_model.model.model.layers.").partition(".")
            short = next(known.value for known, full in PEFT_NAMES.items() if full == name)
            expected[f"layers.{layer}.{short}"] = module.float().get_delta_weight("default").detach().numpy()
    assert found.keys() == expected.keys()
    for site, delta in expected.items():
        np.testing.assert_array_equal(found[site], delta, err_msg=site)


def matrix(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    if dtype == "BF16":
        bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    return np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float32).reshape(shape)
