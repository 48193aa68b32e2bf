"""MBGMM in torch: a GEMM for each live adapter, over views of its pages.

What the CPU runs. A small model's GEMMs of a few rows take microseconds, so nothing that depends on the adapters alone
is done twice: their matrices are found once and kept for as long as they stay in their pages. The list of GEMMs and the
views of rows are kept for as long as the rows stay divided among them, which in decoding is many steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.linear.reference import linear
from kernels.lora.batch import LoraBatch
from kernels.lora.checks import check
from kernels.lora.delta import LoraDelta
from kernels.lora.division import Bridge, Division
from kernels.lora.matrices import Matrices, Product


class _Expand(NamedTuple):
    """`outputs[output][rows] += scale * part @ b`, where `part` is of a bridge."""

    output: int
    part: Tensor  # [rows, rank]
    b: Tensor  # [rank, out]
    scale: float


class _Gemms(NamedTuple):
    """`bridge = x[rows] @ a`, where `segment` numbers the rows, then the expands."""

    segment: int
    a: Tensor  # [in, sum of ranks]
    bridge: Tensor  # [rows, sum of ranks]
    expands: list[_Expand]
    page_ids: Tensor | None  # to be gathered into `scratch` first
    scratch: Tensor | None


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    division = batch.derived.get(Division)
    if division is None or division.starts != batch.starts:
        division = batch.derived[Division] = Division(batch.starts)
    group = tuple(modules)
    key = (pages.data_ptr(), x.dtype, layer, group)
    work = division.derived.get(key)
    if work is None:
        work = division.derived[key] = _work(outputs, x, pages, batch, division, layer, group)
    if not work:
        return
    x_of, *outputs_of = division.segments(group, (x, *outputs))
    for segment, a, bridge, expands, page_ids, scratch in work:
        if page_ids is not None:
            torch.index_select(pages, 0, page_ids, out=scratch)
        torch.mm(x_of[segment], a, out=bridge)
        for output, part, b, scale in expands:
            if scale == 1.0:  # usual, as B takes up powers of two; `alpha` adds two fifths to the time of a small GEMM
                outputs_of[output][segment].addmm_(part, b)
            else:
                outputs_of[output][segment].addmm_(part, b, alpha=scale)


def shrink(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> LoraDelta:
    """As `kernels.lora.shrink`: notes what `expand` is to do."""
    return LoraDelta(outputs, x, pages, batch, layer, tuple(modules))


def linear_and_shrink(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    bias: Tensor | None,
    outputs: Sequence[Tensor],
    pages: Tensor,
    batch: LoraBatch,
    *,
    layer: int,
    modules: Sequence[int],
) -> LoraDelta:
    """As `kernels.lora.linear_and_shrink`."""
    linear(x, weight, out, bias)
    return shrink(outputs, x, pages, batch, layer=layer, modules=modules)


def expand(delta: LoraDelta) -> None:
    """As `kernels.lora.expand`."""
    mbgmm(delta.outputs, delta.x, delta.pages, delta.batch, layer=delta.layer, modules=delta.modules)


def _work(
    outputs: Sequence[Tensor],
    x: Tensor,
    pages: Tensor,
    batch: LoraBatch,
    division: Division,
    layer: int,
    modules: tuple[int, ...],
) -> list[_Gemms]:
    """What the live adapters that own rows do for a group of modules."""
    check(outputs, x, pages, batch, layer=layer, modules=modules)
    work: list[_Gemms] = []
    widths = [output.shape[1] for output in outputs]
    for adapter, kept in enumerate(batch.kept):
        segment = adapter + 1
        if not division.sizes[segment]:
            continue
        if Matrices not in kept:
            kept[Matrices] = Matrices(batch, adapter)
        products = kept[Matrices].products(pages, layer, modules, x.shape[1], widths)
        work += [_gemms(product, segment, division.bridge(segment, product.ranks, x)) for product in products]
    return work


def _gemms(product: Product, segment: int, bridge: Bridge) -> _Gemms:
    expands = [
        _Expand(expand.output, part, expand.b, expand.scale)
        for part, expand in zip(bridge.parts, product.expands, strict=True)
    ]
    return _Gemms(segment, product.a, bridge.whole, expands, product.page_ids, product.scratch)
