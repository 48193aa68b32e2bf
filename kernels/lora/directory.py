"""Where every adapter's matrices lie in the page pool: one slot an adapter, written once, read by every step."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LoraDirectory:
    """Slots of adapters, on the device of the pages.

    A slot is written when its adapter gets its pages, and not again while a batch may name it. A module is one of
    q, k, v, o, gate, up, down, numbered 0 to 6. What is in slots that no batch names does not matter.

    Attributes:
        page_table: `[num_slots, max_adapter_pages]` int32; the pages of an adapter's stream, in order; the rest is -1.
        places: `[num_slots, num_layers, 7, 3]` int32; the rank, 0 where the adapter does not target the module; the
            first element of A, `[rank, in]`, in the layer's stream; the first element of transposed B, `[rank, out]`.
        scales: `[num_slots, num_layers, 7]` float32.
        chunk_elements: Run of a matrix row that, cut at its multiples, never crosses a page border; also divides
            every place. 1 is always true, and slow.
        max_rank: No rank is larger.
    """

    page_table: Tensor
    places: Tensor
    scales: Tensor
    chunk_elements: int
    max_rank: int

    @property
    def num_slots(self) -> int:
        """Adapters that have room."""
        return self.page_table.shape[0]
