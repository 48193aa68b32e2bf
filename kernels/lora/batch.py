"""Which rows of a batch use which adapter."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from kernels.lora.directory import LoraDirectory

ALL_MODULES = frozenset(range(7))
Kept = dict[Hashable, Any]


@dataclass(frozen=True, eq=False)
class LoraBatch:
    """The live adapters of one step.

    Rows are grouped by adapter: rows `[row_start[i], row_start[i + 1])` use live adapter `i`, and rows before
    `row_start[0]` use the base model alone. An adapter may own no row, and then costs nothing; so a batch of static
    capacity, for a CUDA graph, repeats its last entry in what it does not use, and there may be rows after that, which
    stay as they are.

    Attributes:
        row_start: `[num_live + 1]` int32, ascending; the last is the number of rows, except as above on a GPU.
        slots: `[num_live]` int32; where in the directory adapter `i` is. Also of those that own no row, a valid slot.
        directory: Where the adapters' matrices lie.
        is_decode: Whether every sequence has one row, so that few rows, probably, have the same adapter. Ops that add
            adapters' shares on their way, do so for any number of rows of an adapter then.
        modules: No live adapter targets another module, numbered as in the directory; groups without one of them are
            skipped.
        kept: For each live adapter, what ops made of its slot on the host. A caller may hand an adapter's on from
            batch to batch for as long as its slot stays the same; by default it begins empty.
        derived: What ops made of `slots`, the directory and the rows on the host.
        plans: What ops on a GPU made of all of it; new in every step.
    """

    row_start: Tensor
    slots: Tensor
    directory: LoraDirectory
    is_decode: bool = False
    modules: frozenset[int] = ALL_MODULES
    kept: tuple[Kept, ...] = ()
    derived: Kept = field(default_factory=dict, repr=False)
    plans: Kept = field(default_factory=dict, repr=False, init=False)

    def __post_init__(self) -> None:
        if not self.kept:
            object.__setattr__(self, "kept", tuple({} for _ in range(self.slots.shape[0])))
        assert len(self.kept) == self.slots.shape[0], "one for each live adapter"

    @cached_property
    def starts(self) -> list[int]:
        """`row_start` on the host."""
        starts: list[int] = self.row_start.tolist()
        return starts

    def with_rows(self, row_start: Tensor) -> "LoraBatch":
        """The same adapters in the same pages over other rows; what ops made of those on the host stays."""
        return replace(self, row_start=row_start)

    def with_last_rows(self, row_start: Tensor) -> "LoraBatch":
        """The same adapters over rows of which each sequence has one."""
        return replace(self, row_start=row_start, is_decode=True)
