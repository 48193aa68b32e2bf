"""MBGMM in Triton: a shrink, persistent over the plan of the step, and an expand, which other kernels may take over."""

from collections.abc import Sequence

from torch import Tensor

from kernels.chain import resident
from kernels.linear.checks import check_linear
from kernels.linear.kernel import multiply
from kernels.lora.batch import LoraBatch
from kernels.lora.checks import check
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel import hopper
from kernels.lora.kernel.expand import expand
from kernels.lora.kernel.plan import Plan
from kernels.lora.kernel.shrink import shrink as _launch_shrink
from kernels.lora.kernel.tiling import Beside

__all__ = ["expand", "linear_and_shrink", "mbgmm", "shrink"]


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    delta = shrink(outputs, x, pages, batch, layer=layer, modules=modules)
    if delta is not None:
        expand(delta)


def shrink(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> LoraDelta | None:
    """As `kernels.lora.shrink`."""
    check(outputs, x, pages, batch, layer=layer, modules=modules)
    delta, is_new = _planned(outputs, x, pages, batch, layer, modules)
    if delta is not None:
        _fill_bridge(delta, is_new=is_new)
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
    """As `kernels.lora.linear_and_shrink`."""
    check_linear(x, weight, out, bias)
    check(outputs, x, pages, batch, layer=layer, modules=modules)
    beside = hopper.beside(x, weight, out, outputs, pages, batch)
    delta, is_new = _planned(outputs, x, pages, batch, layer, modules, beside)
    if delta is not None:
        if beside is Beside.SHRINKS:
            hopper.launch_apart(delta, weight, out, bias, chained=not is_new)
            return delta
        tiles = hopper.tiles_of(delta, weight)
        if tiles is not None:
            hopper.launch_both(delta, weight, out, bias, tiles, chained=not is_new)
            return delta
        _fill_bridge(delta, is_new=is_new)
        if beside is Beside.ADDS:
            hopper.launch_with_shares(delta, weight, out, bias)
            return delta
    multiply(x, weight, out, bias, chained=True)
    return delta


def _planned(
    outputs: Sequence[Tensor],
    x: Tensor,
    pages: Tensor,
    batch: LoraBatch,
    layer: int,
    modules: Sequence[int],
    beside: Beside = Beside.NOTHING,
) -> tuple[LoraDelta | None, bool]:
    """A delta whose shrink is to follow, and whether its plan is new; None if there is nothing to add.

    A chained kernel begins before the one it follows has ended, and reads the plan at once: after a new one none may.
    """
    if not x.shape[0] or not batch.slots.shape[0] or batch.modules.isdisjoint(modules):
        return None, False
    group = tuple(modules)
    key = (group, x.shape[0], beside)
    plan = batch.plans.get(key)
    is_new = plan is None
    if plan is None:
        widths = [output.shape[1] for output in outputs]
        plan = batch.plans[key] = Plan.make(batch, group, x, widths, beside=beside)
    return LoraDelta(outputs, x, pages, batch, layer, group, plan), is_new


def _fill_bridge(delta: LoraDelta, *, is_new: bool) -> None:
    """By a launch of its own: of as many programs as shared memory holds, in half precision."""
    num_programs, options = resident(delta.x.device, 2, registers=232, is_chained=not is_new)
    _launch_shrink(delta, num_programs, **options)
