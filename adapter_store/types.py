"""The store's vocabulary: base model, modules, adapters and their versions."""

from dataclasses import dataclass
from enum import Enum

DIGEST_PREFIX = "sha256:"


class Module(Enum):
    """A linear layer that adapters may change, in the order of adapter.proto; the value is its name there."""

    Q = "q"
    K = "k"
    V = "v"
    O = "o"  # noqa: E741 - the projection's name
    GATE = "gate"
    UP = "up"
    DOWN = "down"


MODULES = tuple(Module)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions of the base model that adapters depend on."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int

    def in_features(self, module: Module) -> int:
        """Input width of a module."""
        match module:
            case Module.O:
                return self.num_heads * self.head_dim
            case Module.DOWN:
                return self.intermediate_size
            case _:
                return self.hidden_size

    def out_features(self, module: Module) -> int:
        """Output width of a module."""
        match module:
            case Module.Q:
                return self.num_heads * self.head_dim
            case Module.K | Module.V:
                return self.num_kv_heads * self.head_dim
            case Module.GATE | Module.UP:
                return self.intermediate_size
            case Module.O | Module.DOWN:
                return self.hidden_size


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that this store holds adapters for; `family` is the `model_type` of its config.json."""

    name: str
    family: str
    shape: ModelShape


@dataclass(frozen=True, slots=True)
class Site:
    """One place of the base model that an adapter may change."""

    layer: int
    module: Module

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.module.value}"


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter's configuration says of one site: it adds `scale * B @ A` to the weight, A `[rank, in]`."""

    site: Site
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable version of an adapter; `created_at_us` is microseconds since the epoch."""

    digest: str
    created_at_us: int
    rank: int
    target_modules: tuple[Module, ...]
    size_bytes: int
    parameter_count: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter, with its versions newest first; a listing carries only the newest."""

    adapter_id: str
    versions: tuple[Version, ...]

    @property
    def latest(self) -> Version:
        """The newest version."""
        return self.versions[0]


@dataclass(frozen=True, slots=True)
class Publication:
    """What publishing did: the adapter with all its versions, the version published, and whether it is new."""

    adapter: Adapter
    version: Version
    created: bool


@dataclass(frozen=True, slots=True)
class AdapterPage:
    """Adapters by id; `next_after` is the id to go on after, None on the last page."""

    adapters: tuple[Adapter, ...]
    next_after: str | None
