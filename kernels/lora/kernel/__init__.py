"""MBGMM in Triton: a shrink, persistent over the plan of the step, and an expand, which other kernels may take over."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.chain import chained
from kernels.device import num_processors
from kernels.lora.batch import LoraBatch
from kernels.lora.checks import check
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.expand import expand
from kernels.lora.kernel.plan import Plan
from kernels.lora.kernel.shrink import shrink as _launch_shrink

__all__ = ["expand", "mbgmm", "shrink"]


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
    if not x.shape[0] or not batch.slots.shape[0] or batch.modules.isdisjoint(modules):
        return None
    group = tuple(modules)
    key = (group, x.shape[0])
    plan = batch.plans.get(key)
    is_new = plan is None
    if plan is None:
        plan = batch.plans[key] = Plan.make(batch, group, x, [output.shape[1] for output in outputs])
    # A chained kernel begins before the one it follows has ended, and reads the plan at once.
    options = _options(x.device, is_split=plan.tiling.is_split)
    chain = {"CHAINED": False} if is_new else chained(x.device)
    _launch_shrink(x, pages, batch, plan, layer, len(group), **options, **chain)
    return LoraDelta(outputs, x, pages, batch, layer, group, plan)


@cache
def _options(device: torch.device, *, is_split: bool) -> dict[str, Any]:
    """As many programs as shared memory, of split batches, or registers hold, and the registers left for each."""
    if device.type == "cpu":  # Triton's interpreter
        return {"num_programs": 2, "ON_GPU": False}
    each, registers = (2, 232) if is_split else (4, 128)
    return {"num_programs": each * num_processors(device), "maxnreg": registers, "ON_GPU": True}
