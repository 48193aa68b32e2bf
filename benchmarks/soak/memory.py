"""How much memory this process holds, and whether that grows."""

from dataclasses import dataclass, field

import psutil
import torch

from benchmarks.soak.witness import Wrong

MIB = 1 << 20


@dataclass
class MemoryWatch:
    """Compares the memory of idle moments.

    The first `warm_up` looks set the measure: caches fill, and pages are touched for the first time.

    Attributes:
        slack_bytes: By so much each may exceed the most of the warm-up.
        warm_up: Looks.
        is_alone: Whether nobody else uses the device; if somebody does, what is taken of all of it says nothing.
        most: Bytes at the warm-up's most, of the process's resident set, of torch's on the device and of the device.
        growth: Bytes beyond it, at the most.
    """

    slack_bytes: int = 64 * MIB
    warm_up: int = 5
    is_alone: bool = True
    most: dict[str, int] = field(default_factory=dict)
    growth: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        """Raises `Wrong` if memory grew by more than the slack."""
        for name, held in _held(is_alone=self.is_alone).items():
            if self.warm_up > 0:
                self.most[name] = max(self.most.get(name, 0), held)
                continue
            grown = held - self.most[name]
            self.growth[name] = max(self.growth.get(name, 0), grown)
            if grown > self.slack_bytes:
                raise Wrong(f"{name} memory grew by {grown / MIB:.1f} MiB since the warm-up")
        self.warm_up -= 1


def _held(*, is_alone: bool) -> dict[str, int]:
    held = {"process": int(psutil.Process().memory_info().rss)}
    if torch.cuda.is_available():
        held["torch's"] = torch.cuda.memory_reserved()
        if is_alone:
            free, total = torch.cuda.mem_get_info()
            held["device"] = total - free
    return held
