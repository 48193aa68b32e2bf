"""adapter_config.json, read strictly: every setting is honoured, known to change nothing, or refused by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from adapter_store.config import Limits
from adapter_store.errors import AdapterConfigInvalid, AdapterTooLarge, AdapterUnsupported
from adapter_store.peft.fields import Fields, shown
from adapter_store.peft.settings import HARMLESS, HONOURED, INITIALISATIONS, REFUSED, is_unset

CONFIG_NAME = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What adapter_config.json says of the weights.

    `target_modules` and `exclude_modules` are one regular expression (str), a list of names (tuple) or not set (None,
    and the empty tuple). Patterns keep the file's order: the first that matches a module counts.
    """

    rank: int
    alpha: float
    use_rslora: bool
    target_modules: str | tuple[str, ...] | None
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    rank_pattern: tuple[tuple[str, int], ...]
    alpha_pattern: tuple[tuple[str, float], ...]
    base_model: str | None


def parse_settings(content: bytes, limits: Limits) -> LoraSettings:
    """Reads adapter_config.json.

    Raises:
        AdapterConfigInvalid: It is not JSON, or a value has the wrong type or range.
        AdapterUnsupported: It asks for something that is not served.
        AdapterTooLarge: It exceeds a limit.
    """
    if len(content) > limits.max_config_bytes:
        raise AdapterTooLarge(
            f"{CONFIG_NAME} has {len(content)} bytes, more than the {limits.max_config_bytes} allowed",
            field="limits.max_config_bytes",
        )
    values = _parse_json(content)
    _require_lora(values)
    _require_served(values)
    _require_consistent(values)
    fields = Fields(values, limits)
    settings = LoraSettings(
        rank=fields.integer("r", 8, minimum=1),
        alpha=fields.number("lora_alpha", 8),
        use_rslora=fields.boolean("use_rslora"),
        target_modules=fields.names_or_expression("target_modules"),
        exclude_modules=fields.names_or_expression("exclude_modules") or (),
        layers_to_transform=fields.integers("layers_to_transform"),
        layers_pattern=fields.names("layers_pattern"),
        rank_pattern=fields.ranks("rank_pattern"),
        alpha_pattern=fields.alphas("alpha_pattern"),
        base_model=fields.text("base_model_name_or_path"),
    )
    if settings.rank > limits.max_rank:
        raise AdapterTooLarge(f"r is {settings.rank}, more than the {limits.max_rank} allowed", field="r")
    return settings


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        values = json.loads(content.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except AdapterConfigInvalid:
        raise
    except (ValueError, RecursionError) as error:
        raise AdapterConfigInvalid(f"{CONFIG_NAME} is not JSON: {error}; save the adapter again") from None
    if not isinstance(values, dict):
        raise AdapterConfigInvalid(f"{CONFIG_NAME} must be a JSON object")
    return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        repeated = next(key for key, _ in pairs if sum(key == other for other, _ in pairs) > 1)
        raise AdapterConfigInvalid(f"{CONFIG_NAME} sets {repeated!r} twice; keep one", field=repeated)
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise AdapterConfigInvalid(f"{CONFIG_NAME} holds {name}, which is not a number")


def _require_lora(values: Mapping[str, Any]) -> None:
    peft_type = values.get("peft_type")
    if not isinstance(peft_type, str):
        raise AdapterConfigInvalid(f"{CONFIG_NAME} has no peft_type; is it a PEFT adapter?", field="peft_type")
    if peft_type != "LORA":
        raise AdapterUnsupported(f"peft_type {peft_type} is not supported; only LORA is", field="peft_type")
    task_type = values.get("task_type")
    if task_type not in (None, "CAUSAL_LM"):
        raise AdapterUnsupported(f"task_type {task_type!r} is not supported; only CAUSAL_LM is", field="task_type")


def _require_served(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key in HONOURED:
            continue
        if key in HARMLESS:
            if value is not None and not isinstance(value, HARMLESS[key]):
                raise AdapterConfigInvalid(f"{key} has the wrong type: {shown(value)}", field=key)
        elif key in REFUSED:
            if not REFUSED[key].is_unset(value):
                raise AdapterUnsupported(f"{key} is set: {REFUSED[key].name} is not supported", field=key)
        elif not is_unset(value):
            raise AdapterUnsupported(
                f"{key} is a setting that this version does not know: {shown(value)}; remove it if it does not change "
                "what the adapter computes",
                field=key,
            )
    bias = values.get("bias", "none")
    if bias != "none":
        raise AdapterUnsupported(f"bias {shown(bias)} is not supported: trained biases are not served", field="bias")
    initialisation = values.get("init_lora_weights", True)
    is_named = isinstance(initialisation, str)
    if not (initialisation in INITIALISATIONS if is_named else isinstance(initialisation, bool | None)):
        raise AdapterUnsupported(
            f"init_lora_weights {shown(initialisation)} is not supported: the adapter belongs to base weights that "
            "this initialisation changed; convert it to plain LoRA (path_initial_model_for_weight_conversion in PEFT)",
            field="init_lora_weights",
        )


def _require_consistent(values: Mapping[str, Any]) -> None:
    layers, pattern = values.get("layers_to_transform"), values.get("layers_pattern")
    if isinstance(values.get("target_modules"), str) and (layers is not None or pattern is not None):
        raise AdapterConfigInvalid(
            "layers_to_transform and layers_pattern need target_modules to be a list", field="target_modules"
        )
    if pattern and layers is None:
        raise AdapterConfigInvalid("layers_pattern needs layers_to_transform", field="layers_pattern")
