"""Rotary positions: the frequencies of each scaling."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.rope import angles
from worker.model.errors import ModelUnsupported
from worker.model.fields import Fields


class Scaling(Protocol):
    """How the frequencies are changed to reach beyond the context of pre-training."""

    @property
    def amplitude(self) -> float:
        """Factor of cosine and sine."""
        ...

    def frequencies(self, theta: float, head_dim: int) -> Tensor:
        """`[head_dim / 2]` float32."""
        ...


@dataclass(frozen=True, slots=True)
class NoScaling:
    """As trained."""

    amplitude: float = 1.0

    def frequencies(self, theta: float, head_dim: int) -> Tensor:
        """`theta ** (-2 i / head_dim)`."""
        return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float
    amplitude: float = 1.0

    def frequencies(self, theta: float, head_dim: int) -> Tensor:
        """All divided by the factor."""
        return NoScaling().frequencies(theta, head_dim) / self.factor


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long waves are divided by the factor, short ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    amplitude: float = 1.0

    def frequencies(self, theta: float, head_dim: int) -> Tensor:
        """Blended by how many waves fit in the original context: from `low_freq_factor` to `high_freq_factor`."""
        plain = NoScaling().frequencies(theta, head_dim)
        waves = self.original_context * plain / (2 * math.pi)
        kept = ((waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - kept) * plain / self.factor + kept * plain


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN, arXiv 2309.00071."""

    factor: float
    original_context: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    amplitude: float

    def frequencies(self, theta: float, head_dim: int) -> Tensor:
        """Those that turn more than `beta_fast` times in the original context are kept, below `beta_slow` divided."""
        plain = NoScaling().frequencies(theta, head_dim)

        def index_of(turns: float) -> float:
            return head_dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = index_of(self.beta_fast), index_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        divided = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
        return plain / self.factor * divided + plain * (1 - divided)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """The rotation of a model, the same in all layers."""

    theta: float
    head_dim: int
    scaling: Scaling


class Rotation:
    """How far the queries and keys at a position turn, on one device."""

    def __init__(self, config: RopeConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._frequencies = config.scaling.frequencies(config.theta, config.head_dim).to(device)
        self._amplitude = config.scaling.amplitude
        self._dtype = dtype

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, as `kernels.rope` takes them, each `[num_rows, 1, head_dim]`.

        Args:
            positions: `[num_rows]` int64.
        """
        return angles(positions, self._frequencies, self._amplitude, self._dtype)


def read_rope(fields: Fields, head_dim: int) -> RopeConfig:
    """Reads `rope_parameters` as transformers 5 writes it, or `rope_theta` and `rope_scaling` as before.

    Raises:
        ModelUnsupported: a scaling that is not computed exactly.
        ModelConfigInvalid: a scaling with missing or impossible numbers.
    """
    key = "rope_parameters" if fields.has("rope_parameters") else "rope_scaling"
    given = (fields.mapping(key) if fields.has(key) else None) or {}
    defaults = {
        "rope_theta": fields.positive("rope_theta"),
        "partial_rotary_factor": fields.positive("partial_rotary_factor"),
        "original_max_position_embeddings": fields.integer("max_position_embeddings"),
        "rope_type": given.get("type", "default"),
    }
    own = Fields(given, {**_OPTIONAL, **defaults}, f"config.json: {key}")
    rope_type = own.text("rope_type")
    if rope_type not in _READERS:
        why = _REFUSED.get(rope_type, f"is unknown; known are {', '.join(_READERS)}")
        raise ModelUnsupported(f"config.json: rope type {rope_type!r} {why}", field=key)
    known = {"type", *defaults, *_KEYS[rope_type]}
    if unknown := sorted(set(given) - known):
        raise ModelUnsupported(f"config.json: {key} of type {rope_type!r} has unknown {', '.join(unknown)}", field=key)
    if own.positive("partial_rotary_factor") != 1.0:
        raise ModelUnsupported("config.json: partial_rotary_factor other than 1 is not computed", field=key)
    return RopeConfig(own.positive("rope_theta"), head_dim, _READERS[rope_type](own))


def _read_llama3(fields: Fields) -> Scaling:
    low, high = fields.positive("low_freq_factor"), fields.positive("high_freq_factor")
    if low >= high:
        raise fields.invalid("low_freq_factor", f"is {low} and has to be less than high_freq_factor, {high}")
    original = fields.integer("original_max_position_embeddings")
    return Llama3Scaling(fields.positive("factor"), low, high, original)


def _read_yarn(fields: Fields) -> Scaling:
    factor = fields.positive("factor")

    def growth(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if fields.has("attention_factor"):
        amplitude = fields.positive("attention_factor")
    elif fields.has("mscale") and fields.has("mscale_all_dim"):
        amplitude = growth(fields.positive("mscale")) / growth(fields.positive("mscale_all_dim"))
    else:
        amplitude = growth(1.0)
    return YarnScaling(
        factor,
        fields.integer("original_max_position_embeddings"),
        fields.positive("beta_fast"),
        fields.positive("beta_slow"),
        fields.flag("truncate"),
        amplitude,
    )


_READERS: Mapping[str, Callable[[Fields], Scaling]] = {
    "default": lambda _: NoScaling(),
    "linear": lambda fields: LinearScaling(fields.positive("factor")),
    "llama3": _read_llama3,
    "yarn": _read_yarn,
}
_KEYS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
}
_OPTIONAL = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_REFUSED = {
    "dynamic": "depends on the longest sequence seen so far, so that keys already cached would have to be turned again",
    "longrope": "depends on the length of the sequence, so that keys already cached would have to be turned again",
}
