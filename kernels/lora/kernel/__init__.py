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


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    check(outputs, x, pages, batch, layer=layer, modules=modules)
    if not x.shape[0] or not batch.slots.shape[0]:
        return
    key = (tuple(modules), x.shape[0])
    plan = batch.plans.get(key)
    if plan is None:
        widths = [output.shape[1] for output in outputs]
        plan = batch.plans[key] = Plan.make(batch, key[0], x.shape[0], x.shape[1], widths, x.dtype)
    num_programs, options = _launch_of(x.device, plan.tiling.has_many)
    options["PRECISION"] = "ieee" if x.dtype == torch.float32 else None
    shrink(x, pages, batch, plan, layer, num_programs, COMPILED=x.is_cuda, **options)
    aligned = all(output.data_ptr() % 16 == 0 and output.stride(0) % 8 == 0 for output in outputs)
    expand(outputs, pages, batch, plan, layer, num_programs, ALIGNED=aligned, **options)


def _launch_of(device: torch.device, has_many: bool) -> tuple[int, dict[str, Any]]:
    if device.type == "cpu":  # Triton's interpreter
        return 2, {"CHAINED": False}
    return _num_processors(device) * (3 if has_many else 6), {"CHAINED": False, "num_warps": 4}


@cache
def _num_processors(device: torch.device) -> int:
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
