"""MBGMM in torch: a GEMM for each live adapter, over views of its pages.

What the CPU runs. A small model's GEMMs of a few rows take microseconds, so nothing that depends on the adapters alone
is done twice: their matrices are found once and kept for as long as they stay in their pages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.matrices import Matrices, Product


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    key = (pages.data_ptr(), layer, tuple(modules))
    products = batch.derived.get(key)
    if products is None:
        products = batch.derived[key] = _products(outputs, x, pages, batch, layer, tuple(modules))
    starts = batch.starts
    for adapter, (a, ranks, expands, page_ids, scratch) in products:
        start, stop = starts[adapter], starts[adapter + 1]
        if start == stop:
            continue
        if page_ids is not None:
            torch.index_select(pages, 0, page_ids, out=scratch)
        shrunk = torch.mm(x[start:stop], a)  # [rows, sum of ranks]
        parts = shrunk.split_with_sizes(ranks, 1) if len(ranks) > 1 else (shrunk,)
        for part, (output, b, scale) in zip(parts, expands, strict=True):
            outputs[output][start:stop].addmm_(part, b, alpha=scale)


def _products(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, layer: int, modules: tuple[int, ...]
) -> list[tuple[int, Product]]:
    """What the live adapters do for a group of modules, each with its number in the batch."""
    assert pages.is_contiguous(), "pages are one block of memory"
    widths = [output.shape[1] for output in outputs]
    found: list[tuple[int, Product]] = []
    for adapter, kept in enumerate(batch.kept):
        if Matrices not in kept:
            kept[Matrices] = Matrices(batch, adapter)
        own = kept[Matrices].products(pages, layer, modules, x.shape[1], widths)
        found.extend((adapter, product) for product in own)
    return found
