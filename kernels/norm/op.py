"""The ops that the model calls: the kernel of the device, or the reference.

RMSNorm, arXiv 1910.07467, rounded as transformers does: computed in float32, rounded to the dtype, then multiplied by
the weight in the dtype.

    norm(h)[t] = round(h[t] / sqrt(mean_j(h[t, j] ** 2) + epsilon)) * weight
"""

from torch import Tensor

from kernels.device import kernel_of
from kernels.lora.delta import LoraDelta
from kernels.norm import reference


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """`norm(x)`.

    Args:
        x: `[num_rows, width]`, with unit stride in its last dimension.
        weight: `[width]`, contiguous; dtype and device as `x`.
        epsilon: Added to the mean square.
        out: Where the result goes, `[num_rows, width]` contiguous; None: a new tensor.

    Returns:
        `[num_rows, width]`.
    """
    if x.is_cuda:
        normed: Tensor = kernel_of("norm").rms_norm(x, weight, epsilon, out)
        return normed
    return reference.rms_norm(x, weight, epsilon, out)


def add_rms_norm(
    hidden: Tensor,
    update: Tensor,
    weight: Tensor,
    epsilon: float,
    out: Tensor | None = None,
    delta: LoraDelta | None = None,
) -> Tensor:
    """`hidden += update`, in place and rounded to the dtype; returns `norm(hidden)`.

    Args:
        hidden: `[num_rows, width]`, with unit stride in its last dimension; written.
        update: As `hidden`; not changed, but perhaps by `delta`.
        weight: `[width]`, contiguous; dtype and device as `hidden`.
        epsilon: Added to the mean square.
        out: Where the result goes, `[num_rows, width]` contiguous; None: a new tensor.
        delta: Adapters' share of `update`, its only output, which is added to it first; None: there is none.

    Returns:
        `[num_rows, width]`.
    """
    if hidden.is_cuda:
        normed: Tensor = kernel_of("norm").add_rms_norm(hidden, update, weight, epsilon, out, delta)
        return normed
    return reference.add_rms_norm(hidden, update, weight, epsilon, out, delta)


def gather_rms_norm(
    hidden: Tensor, update: Tensor, rows: Tensor, weight: Tensor, epsilon: float, delta: LoraDelta | None = None
) -> Tensor:
    """`norm(hidden[rows] + update[rows])`: what comes after the last layer, for the rows whose logits are wanted.

    Args:
        hidden: `[num_rows, width]`, with unit stride in its last dimension.
        update: As `hidden`; not changed, but perhaps by `delta`.
        rows: `[num_wanted]` int64, contiguous, in `[0, num_rows)`; repeats are allowed.
        weight: `[width]`, contiguous; dtype and device as `hidden`.
        epsilon: Added to the mean square.
        delta: As in `add_rms_norm`.

    Returns:
        `[num_wanted, width]`, a new tensor.
    """
    if hidden.is_cuda:
        normed: Tensor = kernel_of("norm").gather_rms_norm(hidden, update, rows, weight, epsilon, delta)
        return normed
    return reference.gather_rms_norm(hidden, update, rows, weight, epsilon, delta)
