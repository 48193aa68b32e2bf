"""A PEFT directory, from files as they came to canonical weights."""

from pathlib import Path

from adapter_store.config import Limits
from adapter_store.errors import AdapterTooLarge, BaseModelMismatch
from adapter_store.peft.canonical import Facts, Sink, write_canonical
from adapter_store.peft.config import CONFIG_NAME, LoraSettings, parse_settings
from adapter_store.peft.targets import plan
from adapter_store.peft.tensors import WEIGHTS_NAME, TensorFile
from adapter_store.peft.validate import pair
from adapter_store.types import BaseModel

FILE_NAMES = (CONFIG_NAME, WEIGHTS_NAME)


def canonicalise(directory: Path, model: BaseModel, asserted_base_model: str, limits: Limits, sink: Sink) -> Facts:
    """Checks everything about an adapter and writes its canonical weights.

    Memory: one piece of a tensor (tensors.PIECE_BYTES) and what checking it takes, twice that, beside the two headers;
    never a whole tensor, whatever the adapter's size.

    Args:
        directory: A folder of the store's own with adapter_config.json and adapter_model.safetensors.
        model: The base model.
        asserted_base_model: The base model's name as the publisher gave it; empty if adapter_config.json must name it.
        limits: What is too large.
        sink: Takes the canonical file; on an error it holds a part.

    Raises:
        AdapterInvalid: One of its subclasses, for each kind of defect.
        BaseModelMismatch: The adapter belongs to another base model.
    """
    settings = parse_settings(_read_config(directory / CONFIG_NAME, limits), limits)
    require_base_model(settings, model, asserted_base_model)
    deltas = plan(settings, model, regex_timeout_s=limits.regex_timeout_s)
    with (directory / WEIGHTS_NAME).open("rb") as file:
        weights = TensorFile(file, limits)
        matrices = pair(weights.tensors, deltas, model, limits)
        return write_canonical(weights, matrices, model, sink)


def require_base_model(settings: LoraSettings, model: BaseModel, asserted: str) -> None:
    """Checks that the adapter was trained on `model`.

    Raises:
        BaseModelMismatch: It was not, or nobody says so.
    """
    if asserted:
        if asserted != model.name:
            raise BaseModelMismatch(
                f"the adapter is published for base model {asserted!r}; this store holds adapters of {model.name!r}",
                field="base_model",
            )
        return
    trained_on = (settings.base_model or "").rstrip("/")
    if trained_on == model.name or (trained_on and _last_part(trained_on) == _last_part(model.name)):
        return
    raise BaseModelMismatch(
        f"adapter_config.json says that the adapter was trained on {settings.base_model!r}; this store holds adapters "
        f"of {model.name!r}. If they are the same weights, publish it with base_model={model.name!r}",
        field="base_model",
    )


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _read_config(path: Path, limits: Limits) -> bytes:
    with path.open("rb") as file:
        content = file.read(limits.max_config_bytes + 1)
    if len(content) > limits.max_config_bytes:
        raise AdapterTooLarge(
            f"{CONFIG_NAME} has more than the {limits.max_config_bytes} bytes allowed", field="limits.max_config_bytes"
        )
    return content
