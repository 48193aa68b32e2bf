"""What becomes of each setting that PEFT writes into adapter_config.json; those in no table must not be set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def is_unset(value: Any) -> bool:
    """Whether a setting is off: null, false, or empty. Zero is a value."""
    return value is None or value is False or value in ("", [], {})


def _is_off(value: Any) -> bool:
    """Whether a setting is off for which PEFT gives even an empty value a meaning: an empty sub-configuration is on."""
    return value is None or value is False


def _is_known_runtime(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and value.keys() <= {"ephemeral_gpu_offload"})


@dataclass(frozen=True, slots=True)
class Refusal:
    """A setting that must be off: the name of what it turns on, and what counts as off."""

    name: str
    is_unset: Callable[[Any], bool] = _is_off


# Settings that the store acts on, or checks value by value.
HONOURED = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "task_type",
        "use_rslora",
    }
)

# Settings that change nothing in what a trained adapter computes, with the types that PEFT gives them.
# fan_in_fan_out: PEFT resets it for linear layers, and all seven modules are. eva_config: EVA leaves the base weights
# as they are and writes the ranks and alphas that it chose into the patterns.
HARMLESS: Mapping[str, type | tuple[type, ...]] = {
    "auto_mapping": dict,
    "eva_config": dict,
    "fan_in_fan_out": bool,
    "inference_mode": bool,
    "lora_dropout": (int, float),
    "megatron_core": str,
    "peft_version": str,
    "qalora_group_size": int,
    "revision": str,
}

# Settings that change what the adapter computes, or which weights it belongs to, in a way that is not served.
REFUSED: Mapping[str, Refusal] = {
    "alora_invocation_tokens": Refusal("activated LoRA (aLoRA)"),
    "arrow_config": Refusal("Arrow routing"),
    "corda_config": Refusal("CorDA, which changes the base weights,"),
    "ensure_weight_tying": Refusal("tying of adapted embeddings"),
    "kasa_config": Refusal("KaSA, which changes the base weights,"),
    "layer_replication": Refusal("layer replication", is_unset),
    "loftq_config": Refusal("LoftQ, which changes the base weights,", is_unset),
    "lora_bias": Refusal("a bias on LoRA's B matrices"),
    "lora_ga_config": Refusal("LoRA-GA, which changes the base weights,"),
    "megatron_config": Refusal("Megatron parallel layers"),
    "modules_to_save": Refusal("training whole modules beside the adapter", is_unset),
    "monteclora_config": Refusal("MonteCLoRA"),
    "runtime_config": Refusal("a runtime configuration in the file", _is_known_runtime),
    "target_parameters": Refusal("LoRA on bare parameters", is_unset),
    "trainable_token_indices": Refusal("training single tokens' embeddings"),
    "use_bdlora": Refusal("block-diagonal LoRA (BD-LoRA)"),
    "use_dora": Refusal("DoRA"),
    "use_qalora": Refusal("QA-LoRA"),
    "velora_config": Refusal("VeLoRA"),
}

# Initialisations (beside true and false) that leave the base weights as they are: what is saved is then plain LoRA.
INITIALISATIONS = frozenset({"gaussian", "orthogonal", "eva", "mica"})
