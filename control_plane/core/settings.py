"""How a setting that operators may change declares its default and its range."""

from dataclasses import dataclass, field
from typing import Any

_BOUNDS = "bounds"

MUST_BE_SET = {"must_be_set": True}
"""Metadata of a dataclass field that a policy must set: what it is without means nothing."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers that a setting may have, both ends included; 0 too if it `may_be_zero`."""

    low: float
    high: float
    may_be_zero: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high or (self.may_be_zero and value == 0)

    def __str__(self) -> str:
        return f"{'0, or ' if self.may_be_zero else ''}from {self.low:.12g} to {self.high:.12g}"


@dataclass(frozen=True, slots=True)
class LabelMatch:
    """Labels that a worker must have: of each key one of the values."""

    values_of: tuple[tuple[str, tuple[str, ...]], ...] = ()


def bounded(default: float, low: float, high: float, *, may_be_zero: bool = False) -> Any:
    """A dataclass field with a default and a range; the policy decoder refuses what lies outside."""
    return field(default=default, metadata={_BOUNDS: Bounds(low, high, may_be_zero)})


def must_be_set(metadata: Any) -> bool:
    """Whether a dataclass field was declared with MUST_BE_SET."""
    return bool(metadata.get("must_be_set"))


def bounds_of(metadata: Any) -> Bounds | None:
    """The range that a dataclass field was declared with."""
    bounds = metadata.get(_BOUNDS)
    assert bounds is None or isinstance(bounds, Bounds)
    return bounds
