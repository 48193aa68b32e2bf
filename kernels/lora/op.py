"""The op that the model calls: the kernel of the device, or the reference."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kernels.device import kernel_of
from kernels.lora import reference
from kernels.lora.batch import LoraBatch
from kernels.lora.delta import LoraDelta


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """Multi-size batched gather matrix-matrix product: adds each row's own adapter, for modules that share an input.

    For each module `m`, live adapter `i`, and row `t` in `[row_start[i], row_start[i + 1])`:

        outputs[m][t] += scale[i, m] * (x[t] @ A[i, m].T) @ B[i, m].T

    Work follows the rows, true ranks and true targets: rows before `row_start[0]` are not touched, and a module of
    rank 0 costs nothing. S-LoRA, arXiv 2311.03285, section 5.3. Products are added in float32, and what lies between
    A and B is rounded to the dtype once. On a GPU nothing is read by the host, so that a CUDA graph captured with a
    batch that was not used before may be replayed with other contents of its tables; and a row's result has the same
    bits whatever else is in the batch.

    Args:
        outputs: The modules' outputs, each `[num_rows, out_m]` with unit stride in its last dimension; added to in
            place. They may be slices of one tensor.
        x: The modules' input, `[num_rows, in]`; dtype and device as `outputs` and `pages`.
        pages: One layer's pages, `[num_pages, page_elements]`, contiguous; not changed. What the adapters' matrices do
            not cover is never used, whatever it holds.
        batch: The live adapters and their rows.
        layer: The layer that `pages` belongs to; selects ranks, offsets and scales.
        modules: What each of `outputs` is, numbered as in `LoraDirectory`.

    Raises:
        ValueError: An argument has the wrong rank, shape, dtype, strides or device; named with what is wanted.
    """
    _module(x).mbgmm(outputs, x, pages, batch, layer=layer, modules=modules)


def shrink(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> LoraDelta | None:
    """Begins `mbgmm(outputs, x, ...)`: what it returns is still to be added to `outputs`, which need not be there yet.

    On a GPU it takes the inputs down to the ranks, `x[t] @ A[i, m].T`, before the outputs are made. Whoever reads these
    next adds the rest: to rows whose adapters have few others on its way, so that it costs neither a launch nor a trip
    of the outputs to memory; to others by `expand` in place, before, and so to all rows if there are many, if ranks are
    large, or if in a batch with prompts adapters of few rows have two or more on average. Which of the two a row gets
    decides its last bits. On a CPU nothing happens before it is added.

    Returns:
        What `expand`, `rotate_and_write`, `silu_mul` or a norm takes; None if the batch has no row, no adapter, or none
        that targets one of the modules.

    Raises:
        ValueError: As `mbgmm`.
    """
    delta: LoraDelta | None = _module(x).shrink(outputs, x, pages, batch, layer=layer, modules=modules)
    return delta


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
) -> LoraDelta | None:
    """A linear layer, `kernels.linear.linear(x, weight, out, bias, chained=True)`, with `shrink` of its modules.

    With the bits of both, but on a Hopper GPU for more than 64 rows, where the linear layer may have those of another
    kernel. There both are one launch for up to 64 rows, where `linear` has a kernel for these, rows of A and B are
    multiples of 256 long, and those of A not longer than two pages: matrices A then come beside the weights. They are
    for up to 2,048 rows, too, where that pays, if rows of A are like this and rows of `weight`, `out` and pages begin
    at multiples of 16 bytes; of a batch that is not of decodes, only if rows times the directory's `max_rank` are few.
    With more than 2,048 rows, where pages cut no run of 128 elements, modules' outputs are multiples of 128 and all
    rows begin at multiples of 16 bytes, the linear layer adds what adapters of 64 rows or more have, and an expand the
    rest; the scale is then rounded into what lies between A and B, and a matrix B that is not finite makes others' rows
    beside its own not finite, too.

    Args:
        x: As both take it.
        weight: As `linear` takes it.
        out: As `linear` takes it; written.
        bias: As `linear` takes it.
        outputs: The modules' columns of `out`.
        pages: As `shrink` takes it.
        batch: As `shrink` takes it.
        layer: As `shrink` takes it.
        modules: As `shrink` takes it.

    Returns:
        As `shrink`.

    Raises:
        ValueError: As both.
    """
    delta: LoraDelta | None = _module(x).linear_and_shrink(
        x, weight, out, bias, outputs, pages, batch, layer=layer, modules=modules
    )
    return delta


def expand(delta: LoraDelta) -> None:
    """Ends what `shrink` began: `outputs[m][t] += scale[i, m] * bridge[t, m] @ B[i, m].T`."""
    _module(delta.x).expand(delta)


def _module(x: Tensor) -> Any:
    return kernel_of("lora") if x.is_cuda else reference
