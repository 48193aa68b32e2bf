"""Where the matrices of the live adapters lie, as the kernels read it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.lora.batch import Kept, LoraBatch
from worker.adapters.residency import Residency
from worker.engine.staging import to_device
from worker.memory.layout import AdapterLayout
from worker.types import HostedAdapter


@dataclass(frozen=True, slots=True)
class _LayoutTables:
    """One adapter's ranks and offsets of A and B, `[3, num_layers, 7]` int32, and scales, `[num_layers, 7]`."""

    numbers: NDArray[np.int32]
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, layout: AdapterLayout) -> "_LayoutTables":
        offsets = np.array(layout.offsets, dtype=np.int32)  # [num_layers, 7, 2]
        ranks = np.array(layout.ranks, dtype=np.int32)
        return cls(np.stack([ranks, offsets[..., 0], offsets[..., 1]]), np.array(layout.scales, dtype=np.float32))


class LoraTables:
    """Makes the tables of a live set once, and again when the set or an adapter's pages change.

    Keeps the arrays of single adapters and what ops made of them until `forget`, so its size follows the pool.
    """

    def __init__(self, residency: Residency, device: torch.device) -> None:
        self._residency = residency
        self._device = device
        self._layouts: dict[str, _LayoutTables] = {}
        self._kept: dict[str, tuple[tuple[int, ...], Kept]] = {}  # an adapter's pages, and what ops made of them
        self._key: tuple[Any, ...] = ()  # what `_stacked` was made from
        self._stacked: LoraBatch | None = None

    def batch(self, live: list[HostedAdapter], row_start: Tensor) -> LoraBatch:
        """The batch in which live adapter `i` owns rows `[row_start[i], row_start[i + 1])`."""
        pages = [self._residency.pages_of(adapter.digest) for adapter in live]
        key = (*(adapter.digest for adapter in live), *pages)
        if self._stacked is None or self._key != key:
            self._stacked = self._stack(live, pages, row_start)
            self._key = key
            return self._stacked
        return self._stacked.with_rows(row_start)

    def forget(self, digest: str) -> None:
        """Drop what is kept of an adapter that left the pool."""
        self._layouts.pop(digest, None)
        self._kept.pop(digest, None)

    def _stack(self, live: list[HostedAdapter], pages: list[tuple[int, ...]], row_start: Tensor) -> LoraBatch:
        layouts = [self._layout(adapter) for adapter in live]
        page_table = np.full((len(live), max(map(len, pages))), -1, dtype=np.int32)
        for row, held in zip(page_table, pages, strict=True):
            row[: len(held)] = held
        numbers = np.stack([layout.numbers for layout in layouts], axis=-1)  # [3, num_layers, 7, num_live]
        scales = np.stack([layout.scales for layout in layouts], axis=-1)
        table, ranks, offsets_a, offsets_b, scales_there = to_device([page_table, *numbers, scales], self._device)
        kept = tuple(self._kept_of(adapter.digest, held) for adapter, held in zip(live, pages, strict=True))
        return LoraBatch(row_start, table, ranks, offsets_a, offsets_b, scales_there, kept)

    def _layout(self, adapter: HostedAdapter) -> _LayoutTables:
        tables = self._layouts.get(adapter.digest)
        if tables is None:
            tables = self._layouts[adapter.digest] = _LayoutTables.of(adapter.layout)
        return tables

    def _kept_of(self, digest: str, pages: tuple[int, ...]) -> Kept:
        held, kept = self._kept.get(digest, ((), {}))
        if held != pages:
            kept = {}
            self._kept[digest] = (pages, kept)
        return kept
