"""Which rows of a batch use which adapter, and where its matrices lie in the page pool."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LoraBatch:
    """The live adapters of one step.

    Rows are grouped by adapter: rows `[row_start[i], row_start[i + 1])` use live adapter `i`, and rows before
    `row_start[0]` use the base model alone. A module is one of q, k, v, o, gate, up, down, numbered 0 to 6.

    Attributes:
        row_start: `[num_live + 1]` int32.
        page_table: `[num_live, max_adapter_pages]` int32; the pages of adapter `i`'s stream, in order; the rest is -1.
        ranks: `[num_layers, 7, num_live]` int32; 0 where the adapter does not target the module.
        offsets_a: `[num_layers, 7, num_live]` int32; first element of A, `[rank, in]`, in the layer's stream.
        offsets_b: `[num_layers, 7, num_live]` int32; first element of transposed B, `[rank, out]`.
        scales: `[num_layers, 7, num_live]` float32.
    """

    row_start: Tensor
    page_table: Tensor
    ranks: Tensor
    offsets_a: Tensor
    offsets_b: Tensor
    scales: Tensor
