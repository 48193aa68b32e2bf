"""One set of tensors of an op of a step, and who computes on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.floors import Work

Device = torch.device | str


@dataclass(frozen=True)
class Data:
    """One set of an op's tensors.

    Attributes:
        run: by contender, the op.
        expected: the right result, float64; asked for before the op runs.
        work: its bytes.
        seen: what to compare, from what the op returned.
    """

    run: Mapping[str, Callable[[], Any]]
    expected: Callable[[], Tensor]
    work: Work
    seen: Callable[[Any], Tensor] = lambda returned: returned
