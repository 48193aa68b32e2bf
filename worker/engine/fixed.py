"""Where batches of fixed size lie, on the host and on the device."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.tables import Tables
from worker.types import BatchSize

_ALIGNMENT = 16  # bytes; as in worker.engine.staging
_TURNS = 2  # the step in flight may not have read what was written for it when the next is written


@dataclass(frozen=True)
class FixedTables:
    """A batch's tables on the device.

    Attributes:
        tensors: In the order of `Tables.of_fixed_size`.
        block_table: `[num_seqs, num_blocks]` int32.
        sources: `[num_fed]` int64; as they were given.
        targets: `[num_fed]` int64; as they were given.
    """

    tensors: Sequence[Tensor]
    block_table: Tensor
    sources: Tensor
    targets: Tensor


class _Turn:
    """Memory on the host that one batch is written to, and which must be read before the next is."""

    def __init__(self, num_bytes: int, device: torch.device) -> None:
        is_pinned = device.type != "cpu"
        self.memory = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_pinned)
        self.read = torch.cuda.Event() if is_pinned else None


class FixedMemory:
    """Memory for batches of some sizes: one of each size lies at the same addresses every time.

    Tables are written to their places and sent in one copy. The block table is as wide as the longest sequence may
    need: only the columns in use are sent, and what is left in the others is of earlier steps.
    """

    def __init__(self, sizes: Iterable[BatchSize], max_seqs: int, max_blocks: int, device: torch.device) -> None:
        """`max_seqs` is that of the largest batch, `max_blocks` the width of the block table."""
        self._block_table = torch.full((max_seqs, max_blocks), -1, dtype=torch.int32, device=device)
        nobody = {size: Tables.nobodys(size).of_fixed_size() for size in sizes}
        starts = {size: _starts(tables) for size, tables in nobody.items()}
        feed = 2 * max_seqs * np.dtype(np.int64).itemsize + 3 * _ALIGNMENT
        num_bytes = max(places[-1] for places in starts.values()) + self._block_table.nbytes + feed
        self._there = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._turns = [_Turn(num_bytes, device) for _ in range(_TURNS)]
        self._next_turn = 0
        self._ends = {size: places[-1] for size, places in starts.items()}
        self._tensors = {size: _tensors(self._there, starts[size], tables) for size, tables in nobody.items()}
        self._arrays = {
            size: [[t.numpy() for t in _tensors(turn.memory, starts[size], tables)] for turn in self._turns]
            for size, tables in nobody.items()
        }

    def send(
        self, size: BatchSize, tables: Tables, sources: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> FixedTables:
        """Fills a batch up to a size and sends it, and two lists of rows beside it, in one copy."""
        number = self._next_turn
        self._next_turn = (number + 1) % _TURNS
        turn, arrays = self._turns[number], self._arrays[size][number]
        if turn.read is not None:
            turn.read.synchronize()
        for array, values, filler in zip(arrays, tables.of_fixed_size(), tables.fillers(), strict=True):
            count = len(values)
            array[:count] = values
            array[count:] = filler
        end, there = self._ends[size], []
        host = turn.memory.numpy()
        for values in (tables.block_table, sources, targets):
            host[end : end + values.nbytes] = values.reshape(-1).view(np.uint8)
            there.append(slice(end, end + values.nbytes))
            end += _aligned(values.nbytes)
        self._there[:end].copy_(turn.memory[:end], non_blocking=True)
        if turn.read is not None:
            turn.read.record()
        sent = self._there[there[0]].view(torch.int32).view(tables.block_table.shape)
        block_table = self._block_table[: size.num_seqs]
        block_table[: sent.shape[0], : sent.shape[1]].copy_(sent)
        return FixedTables(
            self._tensors[size],
            block_table,
            self._there[there[1]].view(torch.int64),
            self._there[there[2]].view(torch.int64),
        )


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _starts(tables: Sequence[NDArray[Any]]) -> list[int]:
    """Where tables of these shapes begin, and where the last ends."""
    return list(accumulate((_aligned(table.nbytes) for table in tables), initial=0))


def _tensors(memory: Tensor, starts: Sequence[int], tables: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Views of memory, of the shapes and types of these tables."""
    return [
        memory[start:stop][: table.nbytes].view(torch.from_numpy(table).dtype)
        for (start, stop), table in zip(pairwise(starts), tables, strict=True)
    ]
