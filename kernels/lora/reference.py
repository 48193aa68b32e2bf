"""MBGMM in torch: a GEMM for each live adapter, over views of its pages.

What the CPU runs. A small model's GEMMs of a few rows take microseconds, so nothing that depends on the adapters alone
is done twice: their matrices are found once and kept for as long as they stay in their pages, and the list of GEMMs is
kept for as long as the rows stay divided among them, which in decoding is many steps.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.matrices import Matrices, Product


class _Shrink(NamedTuple):
    """`bridge = x[rows] @ a`, where `segment` numbers the rows."""

    segment: int
    a: Tensor  # [in, sum of ranks]
    bridge: Tensor  # [rows, sum of ranks], written in every step
    page_ids: Tensor | None  # to be gathered into `scratch` first
    scratch: Tensor | None


class _Expand(NamedTuple):
    """`outputs[output][rows] += scale * part @ b`, where `part` is of a bridge."""

    output: int
    segment: int
    part: Tensor  # [rows, rank]
    b: Tensor  # [rank, out]
    scale: float


class _Work(NamedTuple):
    """The GEMMs of a group of modules over rows divided at `starts`.

    A scratch serves one shrink and its expands at a time, so `scattered` ones go one by one, the others in two sweeps.
    """

    starts: list[int]
    sizes: list[int]
    shrinks: list[_Shrink]
    expands: list[_Expand]
    scattered: list[tuple[_Shrink, list[_Expand]]]


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    key = (pages.data_ptr(), x.dtype, layer, tuple(modules))
    work = batch.derived.get(key)
    if work is None or work.starts != batch.starts:
        work = batch.derived[key] = _work(outputs, x, pages, batch, layer, tuple(modules))
    if not work.shrinks and not work.scattered:
        return
    x_of = x.split_with_sizes(work.sizes)
    outputs_of = [output.split_with_sizes(work.sizes) for output in outputs]
    for segment, a, bridge, _, _ in work.shrinks:
        torch.mm(x_of[segment], a, out=bridge)
    for output, segment, part, b, scale in work.expands:
        outputs_of[output][segment].addmm_(part, b, alpha=scale)
    for (segment, a, bridge, page_ids, scratch), expands in work.scattered:
        assert page_ids is not None
        torch.index_select(pages, 0, page_ids, out=scratch)
        torch.mm(x_of[segment], a, out=bridge)
        for output, _, part, b, scale in expands:
            outputs_of[output][segment].addmm_(part, b, alpha=scale)


def _work(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, layer: int, modules: tuple[int, ...]
) -> _Work:
    """What the live adapters that own rows do for a group of modules."""
    assert pages.is_contiguous(), "pages are one block of memory"
    starts = batch.starts
    sizes = [starts[0], *(stop - start for start, stop in pairwise(starts))]  # base-only rows first
    work = _Work(starts, sizes, [], [], [])
    widths = [output.shape[1] for output in outputs]
    for adapter, kept in enumerate(batch.kept):
        if not sizes[adapter + 1]:
            continue
        if Matrices not in kept:
            kept[Matrices] = Matrices(batch, adapter)
        for product in kept[Matrices].products(pages, layer, modules, x.shape[1], widths):
            shrink, expands = _gemms(product, adapter + 1, x.new_empty(sizes[adapter + 1], sum(product.ranks)))
            if product.page_ids is None:
                work.shrinks.append(shrink)
                work.expands.extend(expands)
            else:
                work.scattered.append((shrink, expands))
    return work


def _gemms(product: Product, segment: int, bridge: Tensor) -> tuple[_Shrink, list[_Expand]]:
    parts = bridge.split_with_sizes(product.ranks, 1)
    expands = [
        _Expand(expand.output, segment, part, expand.b, expand.scale)
        for part, expand in zip(parts, product.expands, strict=True)
    ]
    return _Shrink(segment, product.a, bridge, product.page_ids, product.scratch), expands
