"""Adapters in pages, packed by hand: the tables and bytes that the worker has to produce."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kernels.lora import LoraBatch
from worker.memory.layout import AdapterLayout

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
) -> LoraBatch:
    """The tables of the live adapters."""
    width = max((len(ids) for ids in page_ids), default=0) + 1
    padded = [[*ids, *[-1] * (width - len(ids))] for ids in page_ids]

    def table(values: list[object], dtype: torch.dtype) -> Tensor:  # [num_live, layers, 7] -> [layers, 7, num_live]
        return torch.tensor(values, dtype=dtype, device=device).permute(1, 2, 0).contiguous()

    return LoraBatch(
        row_start=torch.tensor(row_start, dtype=torch.int32, device=device),
        page_table=torch.tensor(padded, dtype=torch.int32, device=device).view(len(page_ids), width),
        ranks=table([layout.ranks for layout in layouts], torch.int32),
        offsets_a=table([[[o[0] for o in row] for row in layout.offsets] for layout in layouts], torch.int32),
        offsets_b=table([[[o[1] for o in row] for row in layout.offsets] for layout in layouts], torch.int32),
        scales=table([layout.scales for layout in layouts], torch.float32),
    )
