"""MBGMM in torch: a GEMM for each live adapter, over views of its pages.

What the CPU runs. A small model's GEMMs of a few rows take microseconds, so nothing that depends on the adapters alone
is done twice: their matrices are found once and kept for as long as they stay in their pages.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.matrices import Matrices, Product, Recipe


class _Group(NamedTuple):
    """What all live adapters do for a group of modules in one layer: each adapter with its part."""

    products: list[tuple[int, Product]]
    scattered: list[tuple[int, Recipe]]


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    key = (pages.data_ptr(), layer, tuple(modules))
    group = batch.derived.get(key)
    if group is None:
        group = batch.derived[key] = _group(outputs, x, pages, batch, layer, tuple(modules))
    starts = batch.starts
    _add(outputs, x, starts, group.products)
    if group.scattered:
        live = ((adapter, recipe) for adapter, recipe in group.scattered if starts[adapter] < starts[adapter + 1])
        _add(outputs, x, starts, ((adapter, recipe.gathered(pages)) for adapter, recipe in live))


def _add(outputs: Sequence[Tensor], x: Tensor, starts: list[int], products: Iterable[tuple[int, Product]]) -> None:
    for adapter, (a, ranks, expands) in products:
        start, stop = starts[adapter], starts[adapter + 1]
        if start == stop:
            continue
        shrunk = torch.mm(x[start:stop], a)  # [rows, sum of ranks]
        if len(expands) == 1:
            output, b, scale = expands[0]
            outputs[output][start:stop].addmm_(shrunk, b, alpha=scale)
            continue
        for part, (output, b, scale) in zip(shrunk.split_with_sizes(ranks, 1), expands, strict=True):
            outputs[output][start:stop].addmm_(part, b, alpha=scale)


def _group(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, layer: int, modules: tuple[int, ...]
) -> _Group:
    assert pages.is_contiguous(), "pages are one block of memory"
    widths = [output.shape[1] for output in outputs]
    group = _Group([], [])
    for adapter, kept in enumerate(batch.kept):
        if Matrices not in kept:
            kept[Matrices] = Matrices(batch, adapter)
        for found in kept[Matrices].find(pages, layer, modules, x.shape[1], widths):
            if isinstance(found, Product):
                group.products.append((adapter, found))
            else:
                group.scattered.append((adapter, found))
    return group
