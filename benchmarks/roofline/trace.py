"""A profiled run of steps: every kernel's time, by part of the step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.roofline.parts import Part, parts_of


@dataclass(frozen=True)
class Kernel:
    """One kernel or copy on the device; times in microseconds."""

    name: str
    start: float
    end: float


@dataclass
class Spent:
    """On one part, in microseconds.

    Attributes:
        busy: While nothing that began earlier still ran. So all parts' `busy` adds up to the device's.
        alone: From their starts to their ends, also where they ran beside others.
        count: Kernels.
    """

    busy: float = 0.0
    alone: float = 0.0
    count: int = 0


def profiled(steps: Iterable[Callable[[], object]]) -> list[Kernel]:
    """The kernels of all steps, by their starts."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for step in steps:
            step()
        torch.cuda.synchronize()
    kernels = [
        Kernel(event.name, event.time_range.start, event.time_range.end)
        for event in trace.events()
        if event.device_type == DeviceType.CUDA
    ]
    return sorted(kernels, key=lambda kernel: kernel.start)


def spent_by_part(kernels: Sequence[Kernel], num_layers: int) -> dict[Part, Spent]:
    """What whole steps spent on each part."""
    spent: dict[Part, Spent] = {}
    until = float("-inf")
    for kernel, part in zip(kernels, parts_of([kernel.name for kernel in kernels], num_layers), strict=True):
        own = spent.setdefault(part, Spent())
        own.busy += max(0.0, kernel.end - max(kernel.start, until))
        own.alone += kernel.end - kernel.start
        own.count += 1
        until = max(until, kernel.end)
    return spent
