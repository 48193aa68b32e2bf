"""MBGMM in torch: a GEMM for each live adapter, over views of its pages.

What the CPU runs. A small model's GEMMs of a few rows take microseconds, so nothing that depends on the adapters alone
is done twice: their matrices are found once and kept with the batch's tables.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.matrices import Matrices


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    matrices = batch.derived.get(Matrices)
    if matrices is None:
        matrices = batch.derived[Matrices] = Matrices(batch)
    products = matrices.products(pages, layer, tuple(modules), x.shape[1], [output.shape[1] for output in outputs])
    counts = batch.row_counts
    if not products or counts[0] == x.shape[0]:
        return
    x_of = x.split_with_sizes(counts)
    outputs_of = [output.split_with_sizes(counts) for output in outputs]
    for adapter, a, ranks, expands, page_ids, scratch in products:
        if counts[adapter + 1] == 0:
            continue
        if page_ids is not None:
            torch.index_select(pages, 0, page_ids, out=scratch)
        shrunk = torch.mm(x_of[adapter + 1], a)  # [rows, sum of ranks]
        parts = shrunk.split_with_sizes(ranks, 1) if len(ranks) > 1 else (shrunk,)
        for part, (output, b, scale) in zip(parts, expands, strict=True):
            outputs_of[output][adapter + 1].addmm_(part, b, alpha=scale)
