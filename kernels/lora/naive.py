"""MBGMM as its formula reads, row by row in float64: what every implementation is measured against."""

from collections.abc import Sequence

from torch import Tensor

from kernels.lora.batch import LoraBatch


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> list[Tensor]:
    """As `kernels.lora.mbgmm`, but returns the new outputs, in float64, and changes nothing."""
    results = [output.double().clone() for output in outputs]
    for adapter in range(batch.page_table.shape[0]):
        held = batch.page_table[adapter]
        stream = pages[held[held >= 0].long()].flatten().double()
        for module, result in zip(modules, results, strict=True):
            rank = int(batch.ranks[layer, module, adapter])
            start_a, start_b = (
                int(batch.offsets_a[layer, module, adapter]),
                int(batch.offsets_b[layer, module, adapter]),
            )
            a = stream[start_a : start_a + rank * x.shape[1]].view(rank, x.shape[1])
            b = stream[start_b : start_b + rank * result.shape[1]].view(rank, result.shape[1]).T
            for row in range(int(batch.row_start[adapter]), int(batch.row_start[adapter + 1])):
                result[row] += float(batch.scales[layer, module, adapter]) * (b @ (a @ x[row].double()))
    return results
