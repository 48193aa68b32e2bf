"""RMSNorm on a GPU: a program holds a row, or, of few rows with adapters on Hopper, a cluster of programs does."""

from torch import Tensor

from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.expand import expand_unless_by_row
from kernels.norm.checks import check_norm, check_rows
from kernels.norm.kernel.by_row import MOST_COLUMNS, norm_by_row
from kernels.norm.kernel.hopper import columns_of, norm_by_cluster

__all__ = ["add_rms_norm", "gather_rms_norm", "rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, out: Tensor | None = None) -> Tensor:
    """As `kernels.norm.rms_norm`."""
    check_norm(x, None, weight, out)
    output = x.new_empty(x.shape) if out is None else out
    if x.shape[0]:
        norm_by_row(output, x, x, x, weight, epsilon, None, adds=False, gathers=False)
    return output


def add_rms_norm(
    hidden: Tensor,
    update: Tensor,
    weight: Tensor,
    epsilon: float,
    out: Tensor | None = None,
    delta: LoraDelta | None = None,
) -> Tensor:
    """As `kernels.norm.add_rms_norm`."""
    check_norm(hidden, update, weight, out)
    output = hidden.new_empty(hidden.shape) if out is None else out
    num_rows, width = hidden.shape
    if num_rows:
        columns = columns_of(hidden, delta)
        has_registers = columns is not None or width <= MOST_COLUMNS
        delta = expand_unless_by_row(delta, update, [width], has_registers=has_registers)
        if delta is None or columns is None:
            norm_by_row(output, hidden, update, hidden, weight, epsilon, delta, adds=True, gathers=False)
        else:
            norm_by_cluster(output, hidden, update, weight, epsilon, delta, columns)
    return output


def gather_rms_norm(
    hidden: Tensor, update: Tensor, rows: Tensor, weight: Tensor, epsilon: float, delta: LoraDelta | None = None
) -> Tensor:
    """As `kernels.norm.gather_rms_norm`."""
    check_norm(hidden, update, weight, None)
    check_rows(rows, hidden)
    width = hidden.shape[1]
    output = hidden.new_empty((rows.shape[0], width))
    if rows.shape[0]:
        delta = expand_unless_by_row(delta, update, [width], has_registers=width <= MOST_COLUMNS)
        norm_by_row(output, hidden, update, rows, weight, epsilon, delta, adds=True, gathers=True)
    return output
