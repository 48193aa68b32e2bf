"""The store's configuration: every key, its default and its bound. Nothing else reads files or flags for it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel as PydanticModel
from pydantic import ConfigDict, Field, ValidationError, model_validator

from adapter_store.errors import ConfigInvalid

MIB = 1 << 20

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Section(PydanticModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class ModelConfig(_Section):
    """The base model that adapters are checked against.

    Attributes:
        path: Its Hugging Face directory, or a folder that holds a copy of its config.json: nothing else is read.
        name: What requests and adapters call it; the directory's own name if empty.
    """

    path: Path
    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _name_after_directory(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("path") and not values.get("name"):
            return {**values, "name": Path(str(values["path"])).resolve().name}
        return values


class Limits(_Section):
    """What one adapter, and all at once, may take.

    Attributes:
        max_adapter_bytes: Longest adapter_model.safetensors.
        max_config_bytes: Longest adapter_config.json.
        max_header_bytes: Longest safetensors header.
        max_tensors: Most tensors of an adapter; a module has two.
        max_rank: Largest rank of a module.
        max_patterns: Most names or expressions in any one list or mapping of adapter_config.json.
        max_pattern_chars: Longest of those.
        regex_timeout_s: How long all regular expressions of one adapter may take in all.
        max_versions_per_adapter: Most versions that an adapter may have at a time.
        max_concurrent_uploads: Most adapters that may be published at a time; more are refused.
        upload_idle_timeout_s: Longest silence on an upload.
        upload_timeout_s: Longest upload.
        max_concurrent_rpcs: Most calls at a time; more are refused.
    """

    max_adapter_bytes: Count = 8192 * MIB
    max_config_bytes: Count = 1 * MIB
    max_header_bytes: Count = 8 * MIB
    max_tensors: Count = 8192
    max_rank: Count = 512
    max_patterns: Count = 2048
    max_pattern_chars: Count = 1024
    regex_timeout_s: Seconds = 5.0
    max_versions_per_adapter: Count = 1000
    max_concurrent_uploads: Count = 8
    upload_idle_timeout_s: Seconds = 30.0
    upload_timeout_s: Seconds = 3600.0
    max_concurrent_rpcs: Count = 1024


class Config(_Section):
    """The adapter store's whole configuration.

    Attributes:
        listen: `host:port` to serve on; port 0 takes a free one.
        data_dir: Catalog, blobs and uploads under way; made if it is not there. One store at a time may use it.
        model: The base model.
        import_roots: Folders that ImportAdapter may read from.
        limits: See `Limits`.
        io_threads: Threads for catalog and blob reads.
        drain_seconds: How long calls in flight may go on after SIGTERM.
        log_level: DEBUG, INFO, WARNING or ERROR.
    """

    listen: Annotated[str, Field(pattern=r"^.+:\d{1,5}$")] = "127.0.0.1:7001"
    data_dir: Path
    model: ModelConfig
    import_roots: tuple[Path, ...] = ()
    limits: Limits = Limits()
    io_threads: Annotated[int, Field(ge=1, le=256)] = 8
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"


def load_config(arguments: Sequence[str]) -> Config:
    """Reads the configuration from command line arguments.

    Raises:
        ConfigInvalid: The message has one line per problem: the key, and what to change.
    """
    parser = argparse.ArgumentParser(prog="python -m adapter_store", description="Serve the adapter store.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the configuration")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key, such as limits.max_rank=64"
    )
    options = parser.parse_args(arguments)
    values = _read(options.config) if options.config else {}
    for override in options.set:
        _override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigInvalid("\n".join(_line(problem) for problem in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"--config {path}: cannot be read ({error.strerror}); name a file that is there") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"--config {path}: is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigInvalid(f"--config {path}: must hold keys and values at the top")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigInvalid(f"--set {override}: write it as KEY=VALUE, with dots between nested keys")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigInvalid(f"--set {override}: {parent} is a value in the file, not a section")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigInvalid(f"--set {override}: the value is not YAML; quote it") from None


def _line(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "configuration"
    match problem["type"]:
        case "extra_forbidden":
            return f"{key}: is not a key of this service; remove it or correct its name"
        case "missing":
            return f"{key}: is not set; add it to the file or pass --set {key}=VALUE"
        case _:
            return f"{key}: {problem['msg']}, got {problem['input']!r}"
