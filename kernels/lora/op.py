"""The op that the model calls: the kernel of the device, or the reference."""

from collections.abc import Callable, Sequence

from torch import Tensor

from kernels.lora import reference
from kernels.lora.batch import LoraBatch

KERNELS: dict[str, Callable[..., None]] = {}  # by device type; a device that is not here runs the reference


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """Multi-size batched gather matrix-matrix product: adds each row's own adapter, for modules that share an input.

    For each module `m`, live adapter `i`, and row `t` in `[row_start[i], row_start[i + 1])`:

        outputs[m][t] += scale[i, m] * (x[t] @ A[i, m].T) @ B[i, m].T

    Work follows the rows, true ranks and true targets: rows before `row_start[0]` are not touched, and a module of
    rank 0 costs nothing. Deterministic. S-LoRA, arXiv 2311.03285, section 5.3.

    Args:
        outputs: The modules' outputs, each `[num_rows, out_m]` with unit stride in its last dimension; added to in
            place. They may be slices of one tensor.
        x: The modules' input, `[num_rows, in]`; dtype and device as `outputs` and `pages`.
        pages: One layer's pages, `[num_pages, page_elements]`, contiguous; not changed. What the adapters' matrices do
            not cover is never used, whatever it holds.
        batch: The live adapters and their rows.
        layer: The layer that `pages` belongs to; selects ranks, offsets and scales.
        modules: What each of `outputs` is, numbered as in `LoraBatch`.
    """
    KERNELS.get(x.device.type, reference.mbgmm)(outputs, x, pages, batch, layer=layer, modules=modules)
