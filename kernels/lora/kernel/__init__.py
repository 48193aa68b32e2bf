"""MBGMM in Triton: a shrink and an expand, persistent over the plan of the step."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.checks import check
from kernels.lora.kernel.expand import expand
from kernels.lora.kernel.plan import Plan
from kernels.lora.kernel.shrink import shrink
from kernels.lora.kernel.tiling import Tiling


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    check(outputs, x, pages, batch, layer=layer, modules=modules)
    if not x.shape[0] or not batch.slots.shape[0]:
        return
    plan, is_new = _plan_of(outputs, x, batch, tuple(modules))
    launches = _launches(x.device, plan.tiling)
    # A chained kernel begins before the one it follows has ended, and reads the plan at once.
    shrink(x, pages, batch, plan, layer, len(outputs), **launches[_SHRINK, not is_new])
    expand(outputs, pages, batch, plan, layer, **launches[_EXPAND, True])


def _plan_of(outputs: Sequence[Tensor], x: Tensor, batch: LoraBatch, group: tuple[int, ...]) -> tuple[Plan, bool]:
    """The plan of a group, and whether it was launched just now; what has no plan yet gets one for all layers."""
    num_rows, in_features = x.shape
    plan = batch.plans.get((group, num_rows))
    if plan is not None:
        return plan, False
    widths = [output.shape[1] for output in outputs]
    plan = Plan.make(batch, group, num_rows, in_features, widths, x.dtype, _num_tiles(x.device))
    batch.plans[group, num_rows] = plan
    return plan, True


_SHRINK, _EXPAND = "shrink", "expand"
_Launches = dict[tuple[str, bool], dict[str, Any]]


@cache
def _num_tiles(device: torch.device) -> int:
    """Tiles of MBGMV's shrink that a device is to be filled with."""
    return 3 if device.type == "cpu" else 4 * torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _launches(device: torch.device, tiling: Tiling) -> _Launches:
    """Programs and options of both kernels, plain and chained: as many programs as the device holds at a time."""
    if device.type == "cpu":  # Triton's interpreter
        plain: dict[str, Any] = {"num_programs": 2, "CHAINED": False}
        return {(name, chained): plain for name in (_SHRINK, _EXPAND) for chained in (False, True)}
    properties = torch.cuda.get_device_properties(device)
    programs, registers = ((3, 4), (168, 128)) if tiling.is_split else ((1, 3), (255, 168))  # of a processor
    launches: _Launches = {}
    for name, each, most in zip((_SHRINK, _EXPAND), programs, registers, strict=True):
        for chained in (False, True):
            is_chained = chained and properties.major >= 9
            launches[name, chained] = {
                "num_programs": each * properties.multi_processor_count,
                "maxnreg": most,
                "CHAINED": is_chained,
                "launch_pdl": is_chained,
            }
    return launches
