"""MBGMM as its formula reads, row by row in float64: what every implementation is measured against."""

from collections.abc import Sequence

from torch import Tensor

from kernels.lora.batch import LoraBatch


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> list[Tensor]:
    """As `kernels.lora.mbgmm`, but returns the new outputs, in float64, and changes nothing."""
    results = [output.double().clone() for output in outputs]
    directory = batch.directory
    for adapter, slot in enumerate(batch.slots.tolist()):
        held = directory.page_table[slot]
        stream = pages[held[held >= 0].long()].flatten().double()
        for module, result in zip(modules, results, strict=True):
            rank, start_a, start_b = directory.places[slot, layer, module].tolist()
            a = stream[start_a : start_a + rank * x.shape[1]].view(rank, x.shape[1])
            b = stream[start_b : start_b + rank * result.shape[1]].view(rank, result.shape[1]).T
            for row in range(int(batch.row_start[adapter]), int(batch.row_start[adapter + 1])):
                result[row] += float(directory.scales[slot, layer, module]) * (b @ (a @ x[row].double()))
    return results
