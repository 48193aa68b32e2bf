"""How an adapter is shaped: its rank, what it changes, and how it is stored. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = ATTENTION + MLP


@dataclass(frozen=True)
class AdapterRecipe:
    """The LoRA settings of one adapter, under PEFT's names.

    `alpha` 0 stands for twice the rank. `layers` None means every layer. The patterns map a module (or a path that
    ends in it) to its own rank or alpha.
    """

    rank: int
    target_modules: tuple[str, ...]
    alpha: int = 0
    layers: tuple[int, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    alpha_pattern: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    rslora: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def lora_alpha(self) -> int:
        """The numerator of the scale."""
        return self.alpha or 2 * self.rank

    @property
    def summary(self) -> str:
        """One line for tables, such as "all linear, rsLoRA"."""
        named = {ATTENTION: "q k v o", MLP: "gate up down", ALL_LINEAR: "all linear"}
        default = " ".join(name.removesuffix("_proj") for name in self.target_modules)
        parts = [named.get(self.target_modules, default)]
        parts += ["rsLoRA"] if self.rslora else []
        parts += ["rank and alpha patterns"] if self.rank_pattern or self.alpha_pattern else []
        parts += [f"layers {' '.join(map(str, self.layers))} only"] if self.layers is not None else []
        return ", ".join(parts)
