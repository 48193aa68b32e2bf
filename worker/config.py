"""What an operator sets. Every default stands here once; the file is decoded strictly and never changes afterwards."""

import argparse
import os
import secrets
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.engine.config import EngineConfig
from worker.errors import ConfigInvalidError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400)]
LabelText = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,64}$")]

_ENGINE_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(EngineConfig)}
# Most tokens of a step, and most sequences, by type of device: on a GPU, as many as an H200 was measured to serve best.
_BATCHES = {"cpu": (_ENGINE_DEFAULTS["max_step_tokens"], _ENGINE_DEFAULTS["max_running"]), "cuda": (2048, 512)}
_MIN_REQUEST_WINDOW = 256


class Section(BaseModel):
    """A group of settings: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(Section):
    """The base model."""

    # A Hugging Face directory: config.json, safetensors, tokenizer.json.
    path: Path
    # What control planes call it. Empty: the directory's own name.
    name: str = Field(default="", max_length=200)
    # Type of weights, KV and adapters. auto: float32 on a CPU, the type of the weights elsewhere.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # safetensors, or dummy: random weights of the shapes in config.json, for measuring speed.
    load_format: Literal["safetensors", "dummy"] = "safetensors"
    # cpu, cuda or cuda:<index>. auto: the first GPU if there is one.
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")

    @property
    def served_name(self) -> str:
        """The name of the base model: as set, or the directory's own name."""
        return self.name or self.path.resolve().name


class RedisSection(Section):
    """Where the worker's lease goes."""

    # redis://, rediss:// or unix://. Empty: no lease; control planes are then told this worker's address.
    url: str = "redis://127.0.0.1:6379/0"
    # Sentinels, each "host:port". If there are any, they name the server, and of `url` host and port do not count.
    sentinels: tuple[Annotated[str, Field(pattern=r"^.+:\d{1,5}$")], ...] = ()
    # What the Sentinels call the group of servers.
    sentinel_group: str = Field(default="mymaster", min_length=1, max_length=200)
    fleet: str = Field(default="default", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    # A worker silent for this long gets no new request. Renewed three times in it.
    lease_ttl_s: PositiveSeconds = 6.0
    timeout_s: PositiveSeconds = 1.0

    @model_validator(mode="after")
    def _sentinels_name_hosts(self) -> "RedisSection":
        if self.sentinels and not self.url.startswith(("redis://", "rediss://")):
            raise ValueError("with sentinels, url must be redis:// or rediss://")
        return self


class EngineSection(Section):
    """Bounds of the engine; what each means stands at `EngineConfig`."""

    # Longest prompt and output together, in tokens. 0: what the model's config.json says.
    context_length: int = Field(default=0, ge=0)
    block_size: PositiveInt = _ENGINE_DEFAULTS["block_size"]
    # Unset, these two are 512 and 64 on a CPU, 2048 and 512 on a GPU; or what the other one allows.
    max_step_tokens: PositiveInt | None = None
    max_running: PositiveInt | None = None
    max_waiting: PositiveInt = _ENGINE_DEFAULTS["max_waiting"]
    max_skips: int = Field(default=_ENGINE_DEFAULTS["max_skips"], ge=0)
    admission_window: PositiveInt = _ENGINE_DEFAULTS["admission_window"]
    watermark: float = Field(default=_ENGINE_DEFAULTS["watermark"], ge=0, lt=1)
    max_step_load_bytes: PositiveInt = _ENGINE_DEFAULTS["max_step_load_bytes"]
    prefetch_window: int = Field(default=_ENGINE_DEFAULTS["prefetch_window"], ge=0)
    # These three on a GPU alone.
    max_rank: int = Field(default=256, ge=0)
    max_graph_rows: int = Field(default=2048, ge=0)
    overlap: bool = True

    @model_validator(mode="after")
    def _steps_hold_the_batch(self) -> "EngineSection":
        if self.max_step_tokens and self.max_running and self.max_step_tokens < self.max_running:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must be at least max_running ({self.max_running})"
            )
        return self

    def build(self, model_context_length: int, device_type: str) -> EngineConfig:
        """The engine's configuration for a model of this context length, on `cpu` or `cuda`."""
        values = self.model_dump()
        step_tokens, running = _BATCHES[device_type]
        values["max_running"] = self.max_running or min(running, self.max_step_tokens or step_tokens)
        values["max_step_tokens"] = self.max_step_tokens or max(step_tokens, values["max_running"])
        if device_type == "cpu":
            values |= {"max_rank": 0, "max_graph_rows": 0, "overlap": False}
        values["context_length"] = min(self.context_length or model_context_length, model_context_length)
        return EngineConfig(**values)


class FetchSection(Section):
    """How adapters come from the store to host memory."""

    # Longest time for one adapter, retries included.
    deadline_s: PositiveSeconds = 60.0
    max_attempts: PositiveInt = 5
    # Pause before the second attempt; doubles with each more.
    backoff_s: PositiveSeconds = 0.1
    # Larger adapters are refused.
    max_adapter_bytes: PositiveInt = 8 * 1024**3
    # Adapters loaded at the same time, and those among them that no request waits for yet.
    max_loads: PositiveInt = 4
    max_prefetches: PositiveInt = 2
    # How long a request waits for others to leave room for its adapter.
    room_timeout_s: PositiveSeconds = 30.0


class WorkerConfig(Section):
    """Everything."""

    # Names this worker among others; a worker that restarts may keep it. Default: made up at start.
    worker_id: str = Field(default_factory=lambda: f"worker-{secrets.token_hex(4)}", pattern=r"^[A-Za-z0-9._-]{1,128}$")
    listen: str = Field(default="127.0.0.1:7002", pattern=r"^.+:\d+$")
    # Where control planes reach this worker, "host:port". Empty: the address it listens on.
    advertise_address: str = Field(default="", pattern=r"^(.+:\d+)?$")
    # What placement policies may ask for, such as zone: a.
    labels: dict[LabelText, LabelText] = Field(default={}, max_length=32)
    # The tenants that may use this worker. Empty: all.
    tenants: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(default=(), max_length=1000)
    # The adapter store. Empty: the base model only.
    store_address: str = "127.0.0.1:7001"
    model: ModelSection
    redis: RedisSection = RedisSection()
    engine: EngineSection = EngineSection()
    # The page pool. 0: `pool_memory_share` of what weights and steps leave of a GPU; 512 MiB on a CPU.
    pool_bytes: int = Field(default=0, ge=0)
    pool_memory_share: float = Field(default=0.98, gt=0, le=1)
    # Adapters in host memory. 0: half of what the folder's file system has free, at most 1 GiB.
    host_cache_bytes: int = Field(default=0, ge=0)
    # Folder of a file system in memory. Unset: /dev/shm if there is one, else the folder for temporary files.
    host_cache_dir: Path | None = None
    fetch: FetchSection = FetchSection()
    # Most requests held for one control plane. 0: 256, or twice `engine.max_running` if that is more.
    request_window: int = Field(default=0, ge=0)
    # Most steps of sequences joined in one message.
    message_tokens: PositiveInt = 8192
    status_interval_s: PositiveSeconds = 0.25
    # A control plane that does not answer a ping for this long is gone.
    keepalive_interval_s: PositiveSeconds = 10.0
    keepalive_timeout_s: PositiveSeconds = 5.0
    # Threads of the engine's arithmetic on a CPU. 0: half of the cores.
    threads: int = Field(default=0, ge=0, le=1024)
    max_message_bytes: PositiveInt = 16 * 1024 * 1024
    # Longest time from the start of the engine's process until it has loaded the model.
    engine_start_s: PositiveSeconds = 600.0
    # How long requests in flight may go on after SIGTERM.
    drain_seconds: float = Field(default=30.0, ge=0, le=3600)
    # How long control planes have to take the news that the engine is gone.
    crash_flush_s: float = Field(default=1.0, ge=0, le=60)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _lease_leads_here(self) -> "WorkerConfig":
        if self.redis.url and not self.advertise_address and self.listen.startswith(("0.0.0.0:", "[::]:")):
            raise ValueError(
                f"listen is {self.listen}, every interface: set advertise_address to where control planes reach this "
                "worker, as host:port"
            )
        return self

    def window(self, max_running: int) -> int:
        """Most requests held for one control plane, with an engine of batches of up to `max_running` sequences."""
        return self.request_window or max(_MIN_REQUEST_WINDOW, 2 * max_running)

    @property
    def num_threads(self) -> int:
        """Threads of the engine's arithmetic."""
        return self.threads or max(1, (os.cpu_count() or 1) // 2)


def load_config(arguments: Sequence[str]) -> WorkerConfig:
    """Reads `[--config FILE] [--set key=value ...]`.

    Raises:
        ConfigInvalidError: One line for each problem.
    """
    parser = argparse.ArgumentParser(prog="python -m worker", description="A worker of Multitude.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    options = parser.parse_args(list(arguments))
    values = _read_file(options.config) if options.config else {}
    for assignment in options.set:
        _assign(values, assignment)
    try:
        return WorkerConfig.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc'])) or 'config'}: {_advice(item)}" for item in error.errors()]
        raise ConfigInvalidError("\n".join(lines)) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalidError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigInvalidError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigInvalidError(f"{path}: must hold a mapping of settings")
    return values


def _assign(values: dict[str, Any], assignment: str) -> None:
    """Puts one `a.b=value` into nested mappings; the value is read as YAML."""
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise ConfigInvalidError(f"--set {assignment}: write it as key=value, such as model.device=cpu")
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text
    *path, last = key.split(".")
    section = values
    for part in path:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigInvalidError(f"{key}: {part} is a value, not a section")
        section = inner
    section[last] = value


def _advice(item: Any) -> str:
    """What to change, from one of pydantic's error records."""
    if item["type"] == "extra_forbidden":
        return "unknown setting; remove it or mend its name"
    if item["type"] == "missing":
        return "is required"
    return f"{item['msg']}, got {item['input']!r}"
