"""What a group of modules gets from the adapters of its rows, while it is on its way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kernels.lora.batch import LoraBatch


@dataclass(frozen=True, eq=False, slots=True)
class LoraDelta:
    """A product of `kernels.lora.mbgmm` whose first half is under way, and that is still to be added to its outputs.

    It is added by `kernels.lora.expand`, or by an op that reads the outputs anyway and is told of it. Until then what
    it was begun with has to stay as it is.

    Attributes:
        outputs: What it is added to, one for each module, `[num_rows, out_m]`; slices of one tensor, or a tensor.
        x: The modules' input, `[num_rows, in]`.
        pages: One layer's pages.
        batch: The live adapters and their rows.
        layer: The layer.
        modules: What each of `outputs` is.
        plan: What the device knows of it; None where the reference runs.
    """

    outputs: Sequence[Tensor]
    x: Tensor
    pages: Tensor
    batch: LoraBatch
    layer: int
    modules: tuple[int, ...]
    plan: Any = None
