"""Memory for what the linear layers take and give, the same for every layer and every step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.memory.layout import GROUPS, ModelShape

# Rows of the memory that is kept: a batch of decodes. For prompts it would be large and its use small, as the work of a
# row is then far more than what it takes to find memory for it.
MAX_KEPT_ROWS = 256


@dataclass(frozen=True, slots=True)
class Buffers:
    """Memory of one layer for one number of rows."""

    x: Tensor  # [num_rows, hidden], what a norm gives
    qkv: Tensor  # [num_rows, q + k + v]
    qkv_columns: tuple[Tensor, ...]  # q, k and v of it
    gate_up: Tensor  # [num_rows, gate + up]
    gate_up_columns: tuple[Tensor, ...]
    inner: Tensor  # [num_rows, intermediate]
    output: Tensor  # [num_rows, hidden], of o or down


class Workspace:
    """Gives each forward pass its buffers.

    Those of up to `MAX_KEPT_ROWS` rows lie in memory that never moves, and are the same tensors again while the number
    of rows stays: ops may keep views of them, and CUDA graphs their addresses. Those of more rows are new every time.
    """

    def __init__(self, shape: ModelShape, dtype: torch.dtype, device: torch.device) -> None:
        self._widths = [[shape.out_features(module) for module in group] for group in GROUPS]
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self._memory = self._allocate(MAX_KEPT_ROWS)
        self._last = self._buffers(self._memory)

    def buffers(self, num_rows: int) -> Buffers:
        """Buffers of `num_rows` rows, whatever they hold; until the next call."""
        if num_rows > MAX_KEPT_ROWS:
            return self._buffers(self._allocate(num_rows))
        if self._last.x.shape[0] != num_rows:
            self._last = self._buffers([memory[:num_rows] for memory in self._memory])
        return self._last

    def _allocate(self, num_rows: int) -> list[Tensor]:
        hidden, inner = self._shape.hidden_size, self._shape.intermediate_size
        qkv, _, gate_up, _ = map(sum, self._widths)
        widths = (hidden, qkv, gate_up, inner, hidden)
        return [torch.empty(num_rows, width, dtype=self._dtype, device=self._device) for width in widths]

    def _buffers(self, memory: list[Tensor]) -> Buffers:
        x, qkv, gate_up, inner, output = memory
        qkv_widths, _, gate_up_widths, _ = self._widths
        return Buffers(x, qkv, qkv.split(qkv_widths, 1), gate_up, gate_up.split(gate_up_widths, 1), inner, output)
