"""Which rows of a batch use which adapter, and where its matrices lie in the page pool."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from torch import Tensor


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
        derived: What an op made of the tables other than `row_start`, kept so that it is made once.
    """

    row_start: Tensor
    page_table: Tensor
    ranks: Tensor
    offsets_a: Tensor
    offsets_b: Tensor
    scales: Tensor
    derived: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def row_counts(self) -> list[int]:
        """Rows of the base model alone, then of each live adapter."""
        starts: list[int] = self.row_start.tolist()
        return starts[:1] + [end - start for start, end in pairwise(starts)]

    def with_rows(self, row_start: Tensor) -> "LoraBatch":
        """The same adapters in the same pages over other rows; what ops derived from the tables stays."""
        return replace(self, row_start=row_start)
