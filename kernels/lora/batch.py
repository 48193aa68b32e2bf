"""Which rows of a batch use which adapter, and where its matrices lie in the page pool."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

Kept = dict[Hashable, Any]


@dataclass(frozen=True, eq=False)
class LoraBatch:
    """The live adapters of one step.

    Rows are grouped by adapter: rows `[row_start[i], row_start[i + 1])` use live adapter `i`, and rows before
    `row_start[0]` use the base model alone. A module is one of q, k, v, o, gate, up, down, numbered 0 to 6.
    An adapter may own no row, and then costs nothing.

    Attributes:
        row_start: `[num_live + 1]` int32; the last is the number of rows.
        page_table: `[num_live, max_adapter_pages]` int32; the pages of adapter `i`'s stream, in order; the rest is -1.
        ranks: `[num_layers, 7, num_live]` int32; 0 where the adapter does not target the module.
        offsets_a: `[num_layers, 7, num_live]` int32; first element of A, `[rank, in]`, in the layer's stream.
        offsets_b: `[num_layers, 7, num_live]` int32; first element of transposed B, `[rank, out]`.
        scales: `[num_layers, 7, num_live]` float32.
        kept: For each live adapter, what ops made of its pages, ranks, offsets and scales. A caller may hand an
            adapter's on from batch to batch for as long as these stay the same; by default it begins empty.
        derived: What ops made of all tables but `row_start` together.
    """

    row_start: Tensor
    page_table: Tensor
    ranks: Tensor
    offsets_a: Tensor
    offsets_b: Tensor
    scales: Tensor
    kept: tuple[Kept, ...] = ()
    derived: Kept = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.kept:
            object.__setattr__(self, "kept", tuple({} for _ in range(self.page_table.shape[0])))
        assert len(self.kept) == self.page_table.shape[0], "one for each live adapter"

    @cached_property
    def starts(self) -> list[int]:
        """`row_start` on the host."""
        starts: list[int] = self.row_start.tolist()
        return starts

    def with_rows(self, row_start: Tensor) -> "LoraBatch":
        """The same adapters in the same pages over other rows; what ops made of those stays."""
        return replace(self, row_start=row_start)
