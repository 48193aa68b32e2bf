"""Adapters in pages, packed by hand: the tables and bytes that the worker has to produce."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kernels.lora import LoraBatch, LoraDirectory
from worker.memory.layout import MODULES, AdapterLayout

Matrices = Mapping[tuple[int, int], tuple[Tensor, Tensor]]  # (layer, module): A [rank, in], B [out, rank]


def write_adapter(pages: Tensor, layout: AdapterLayout, matrices: Matrices, page_ids: Sequence[int]) -> None:
    """Writes an adapter's stream into `pages[:, page_ids]`, and nothing where the stream has nothing."""
    for (layer, module), (a, b) in matrices.items():
        start_a, start_b = layout.offsets[layer][module]
        stream = pages[layer, list(page_ids)].flatten()
        stream[start_a : start_a + a.numel()] = a.to(stream).flatten()
        stream[start_b : start_b + b.numel()] = b.T.to(stream).flatten()
        pages[layer, list(page_ids)] = stream.view(len(page_ids), -1)


def lora_batch(
    layouts: Sequence[AdapterLayout],
    page_ids: Sequence[Sequence[int]],
    row_start: Sequence[int],
    device: torch.device | str = "cpu",
    chunk_elements: int = 1,
) -> LoraBatch:
    """The tables of the live adapters; they lie in the directory in another order, among slots full of nonsense."""
    slots = [2 * place + 1 for place in range(len(layouts))][::-1]
    width = max((len(ids) for ids in page_ids), default=0) + 1
    num_layers = len(layouts[0].ranks) if layouts else 1
    page_table = torch.full((2 * len(slots) + 1, width), 2**30, dtype=torch.int32)
    places = torch.full((len(page_table), num_layers, len(MODULES), 3), -(2**30), dtype=torch.int32)
    scales = torch.full(places.shape[:3], torch.nan)
    for slot, layout, ids in zip(slots, layouts, page_ids, strict=True):
        page_table[slot] = torch.tensor([*ids, *[-1] * (width - len(ids))])
        places[slot, ..., 0] = torch.tensor(layout.ranks)
        places[slot, ..., 1:] = torch.tensor(layout.offsets)
        scales[slot] = torch.tensor(layout.scales)
    return LoraBatch(
        row_start=torch.tensor(row_start, dtype=torch.int32, device=device),
        slots=torch.tensor(slots, dtype=torch.int32, device=device),
        directory=LoraDirectory(
            page_table.to(device),
            places.to(device),
            scales.to(device),
            chunk_elements,
            max((layout.max_rank for layout in layouts), default=1),
        ),
    )
