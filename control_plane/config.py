"""What an operator sets. Every default stands here once; the file is decoded strictly and never changes afterwards."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A group of settings: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    """The base model: where its tokenizer and chat template are, and what clients call it."""

    # A Hugging Face directory; the control plane reads config.json, the tokenizer and the chat template only.
    path: Path
    # Empty: the directory's own name.
    name: str = Field(default="", max_length=200)
    # Longest prompt and output together, in tokens. 0: what the model's config.json says.
    context_length: int = Field(default=0, ge=0)
    # Texts longer than this many characters are tokenised on a thread, so that they hold up nobody's tokens.
    inline_characters: PositiveInt = 4096
    # Longer texts that may wait for that thread.
    max_waiting_texts: PositiveInt = 256

    @property
    def served_name(self) -> str:
        """The name of the base model: as set, or the directory's own name."""
        return self.name or self.path.resolve().name


class RedisConfig(Section):
    """The state that control planes and workers share."""

    # redis://, rediss:// or unix://. Empty: no shared state; then `workers.addresses` must name the workers.
    url: str = "redis://127.0.0.1:6379/0"
    # Sentinels, each "host:port". If there are any, they name the server, and of `url` host and port do not count.
    sentinels: tuple[Annotated[str, Field(pattern=r"^.+:\d{1,5}$")], ...] = ()
    # What the Sentinels call the group of servers.
    sentinel_group: str = Field(default="mymaster", min_length=1, max_length=200)
    fleet: str = Field(default="default", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    timeout_s: PositiveSeconds = 0.5
    max_connections: PositiveInt = 8
    # How often load, residency and ownership are written, and how long they live unless they are written again.
    publish_interval_s: PositiveSeconds = 1.0
    ttl_s: PositiveSeconds = 15.0
    # How often what tenants got is added up over all control planes.
    share_interval_s: PositiveSeconds = 0.2
    # Tenants that got nothing for so long are forgotten.
    tenant_ttl_s: Annotated[float, Field(ge=60, le=10_000_000)] = 86_400.0
    # Policy versions remembered.
    policy_history: PositiveInt = 100

    @model_validator(mode="after")
    def _sentinels_name_hosts(self) -> "RedisConfig":
        if self.sentinels and not self.url.startswith(("redis://", "rediss://")):
            raise ValueError("with sentinels, url must be redis:// or rediss://")
        return self

    @field_serializer("url")
    def _without_password(self, url: str) -> str:
        return re.sub(r"(://[^/@]*:)[^/@]*@", r"\1***@", url)


class WorkersConfig(Section):
    """How workers are found and spoken to."""

    # Workers besides those that hold a lease in Redis, as "host:port".
    addresses: tuple[str, ...] = ()
    max_workers: PositiveInt = 4096
    # How often leases are read.
    lease_poll_s: PositiveSeconds = 0.5
    # A lease must be missing for this long before its worker gets no new request; a Redis that lost its data is
    # filled again meanwhile.
    lease_grace_s: PositiveSeconds = 5.0
    # Messages that a worker may be ahead of this control plane; its tokens are joined beyond that.
    step_credits: PositiveInt = 4
    # Largest share of one core that step messages may cost here; credits are returned no faster than that. The default
    # suits a machine that the control plane shares with workers; 1 suits a machine of its own.
    step_cpu_share: float = Field(default=0.2, gt=0, le=1)
    # Longest time that a credit may be held back for it.
    step_delay_s: float = Field(default=0.1, ge=0, le=10)
    connect_timeout_s: PositiveSeconds = 5.0
    # The pause before dialling a worker again doubles from the first to the last.
    reconnect_first_s: PositiveSeconds = 0.1
    reconnect_last_s: PositiveSeconds = 5.0
    # A connection whose peer does not answer a ping for this long is broken.
    keepalive_interval_s: PositiveSeconds = 10.0
    keepalive_timeout_s: PositiveSeconds = 5.0


class CatalogConfig(Section):
    """How the adapter store's answers are kept."""

    timeout_s: PositiveSeconds = 2.0
    # How long an answer is taken as fresh; a new version of an adapter is seen no later than that.
    cache_ttl_s: PositiveSeconds = 2.0
    cache_entries: PositiveInt = 10_000


class LimitsConfig(Section):
    """The bounds of one request, and its defaults."""

    # For a request that does not say.
    default_max_tokens: PositiveInt = 512
    max_first_token_deadline_ms: PositiveInt = 600_000
    # Text longer than this many characters is refused before it is tokenised.
    max_prompt_characters: PositiveInt = 4_000_000
    max_logprobs: int = Field(default=20, ge=0)
    max_priority: int = Field(default=100, ge=0)


TENANT_PATTERN = re.compile("[A-Za-z0-9][A-Za-z0-9._:@-]{0,63}")
TenantName = Annotated[str, Field(pattern=f"^{TENANT_PATTERN.pattern}$")]


class TenantsConfig(Section):
    """Whose a request is. Nothing here proves it: put what does, such as a gateway, in front of the control plane."""

    # The gRPC metadata key whose value is the tenant's name.
    metadata_key: str = Field(default="multitude-tenant", pattern="^[a-z0-9_.-]{1,64}$")
    # The tenant of calls without it.
    default: TenantName = "default"
    # If not empty, the only tenants that are served, besides the default one.
    known: tuple[TenantName, ...] = ()


class MetricsConfig(Section):
    """Metrics for Prometheus; deploy/METRICS.md lists them."""

    # Where they are served by HTTP, as "host:port", such as 127.0.0.1:7090. Empty: nowhere.
    listen: str = Field(default="", pattern=r"^(.+:\d+)?$")
    # Adapters and tenants with figures of their own, those with the most traffic; the rest are summed as `other`.
    max_adapters: PositiveInt = 100
    max_tenants: PositiveInt = 50
    # How often those that became busy take the place of those that are not any more.
    rotate_interval_s: PositiveSeconds = 60.0


class ControlPlaneConfig(Section):
    """Everything."""

    listen: str = Field(default="127.0.0.1:7000", pattern=r"^.+:\d+$")
    # What the others of the fleet and operators reach it by, "host:port". Empty: `listen`.
    advertise_address: str = Field(default="", pattern=r"^(.+:\d+)?$")
    # Names this control plane among others. Empty: made up at start.
    control_plane_id: str = Field(default="", max_length=128)
    model: ModelConfig
    redis: RedisConfig = RedisConfig()
    workers: WorkersConfig = WorkersConfig()
    # The adapter store's "host:port". Empty: the base model only.
    store_address: str = "127.0.0.1:7001"
    catalog: CatalogConfig = CatalogConfig()
    # The placement policy's YAML file. Empty: the built-in policy.
    policy_file: Path | None = None
    # How often the policy file is looked at.
    policy_poll_s: PositiveSeconds = 1.0
    limits: LimitsConfig = LimitsConfig()
    tenants: TenantsConfig = TenantsConfig()
    metrics: MetricsConfig = MetricsConfig()
    # Requests that ended whose story is kept for `multitude policy explain`.
    recent_requests: PositiveInt = 10_000
    # How long a simulation that an operator asks for may compute, in a process of its own.
    simulation_timeout_s: PositiveSeconds = 600.0
    # How often the director looks at deadlines when nothing else happens.
    tick_s: PositiveSeconds = 0.05
    max_message_bytes: PositiveInt = 16 * 1024 * 1024
    # Calls that came in and were not looked at yet; more are dropped as CANCELLED, without a reason.
    max_pending_calls: PositiveInt = 65_536
    # How long requests in flight may go on after SIGTERM.
    drain_seconds: float = Field(default=30.0, ge=0, le=3600)
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")


class ConfigError(Exception):
    """A configuration that cannot be used; one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def load_config(arguments: Sequence[str]) -> ControlPlaneConfig:
    """Reads `[--config FILE] [--set key=value ...]`. Raises ConfigError naming each problem."""
    parser = argparse.ArgumentParser(prog="python -m control_plane", description="The control plane of Multitude.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    options = parser.parse_args(list(arguments))
    values = _read_file(options.config) if options.config else {}
    for assignment in options.set:
        _assign(values, assignment)
    try:
        return ControlPlaneConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(
            [f"{'.'.join(str(part) for part in item['loc']) or 'config'}: {_advice(item)}" for item in error.errors()]
        ) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: must hold a mapping of settings"])
    return values


def _assign(values: dict[str, Any], assignment: str) -> None:
    """Puts one `a.b=value` into nested mappings; the value is read as YAML."""
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise ConfigError([f"--set {assignment}: write it as key=value, such as redis.fleet=demo"])
    try:
        value = yaml.safe_load(text) if text else ""
    except yaml.YAMLError:
        value = text
    *path, last = key.split(".")
    section = values
    for part in path:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError([f"{key}: {part} is a value, not a section"])
        section = inner
    section[last] = value


def _advice(item: Any) -> str:
    """What to change, from one of pydantic's error records."""
    if item["type"] == "extra_forbidden":
        return "unknown setting; remove it or mend its name"
    if item["type"] == "missing":
        return "is required"
    return f"{item['msg']}, got {item['input']!r}"
