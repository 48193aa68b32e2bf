"""Where the matrices of the adapters lie, as the kernels read it."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.lora import LoraBatch, LoraDirectory
from kernels.lora.batch import ALL_MODULES, Kept
from worker.adapters.residency import Residency
from worker.engine.staging import to_device
from worker.memory.layout import GROUPS, MODULES, AdapterLayout
from worker.types import HostedAdapter

_FIRST_SLOTS, _FIRST_RANK = 64, 64  # of a directory that was not reserved
_MOST_SLOTS = 1024  # or as many as a step may need

# What a batch's adapters may target; each has recordings of its own, so they are few.
TARGETS = (frozenset(GROUPS[0] + GROUPS[1]), ALL_MODULES)


@dataclass(slots=True)
class _Entry:
    """An adapter in the directory."""

    slot: int
    pages: tuple[int, ...]
    target_set: int  # its place in TARGETS
    kept: Kept = field(default_factory=dict)


class LoraTables:
    """Keeps the directory of the adapters that ran, each written once for as long as it stays in its pages.

    Slots are given back by `forget`, and by those that were written first when there are no more. A directory that was
    reserved is replaced by none, because recordings name it.
    """

    def __init__(self, residency: Residency, device: torch.device, max_live: int, max_rank: int = 0) -> None:
        """A step uses up to `max_live` adapters, with no rank above `max_rank`; 0: of any rank."""
        self._residency = residency
        self._device = device
        self._max_slots = max(_MOST_SLOTS, 1 << (max_live - 1).bit_length())
        self._max_rank = max_rank
        self._entries: dict[str, _Entry] = {}
        self._free: list[int] = []
        self._directory: LoraDirectory | None = None
        self._last: tuple[list[int], LoraBatch] | None = None  # a batch's slots, and the batch

    def reserve(self) -> None:
        """Have a directory before there is an adapter, with room for as many and as large ones as may come."""
        geometry, rank = self._residency.geometry, self._max_rank or _FIRST_RANK
        layer = ((rank,) * len(MODULES),)
        width = AdapterLayout(geometry.shape, layer, ((1.0,) * len(MODULES),)).num_pages(geometry)
        self._directory = self._roomy(self._max_slots, width, rank)

    def slots(self, live: list[HostedAdapter]) -> NDArray[np.int32]:
        """The slots of the live adapters; those that are new or moved are written, in one copy."""
        entries, pages_of = self._entries, self._residency.pages_of
        moved = [a for a in live if a.digest not in entries or entries[a.digest].pages != pages_of(a.digest)]
        if moved:
            for adapter in moved:
                self.forget(adapter.digest)
            self._make_room(len(moved), live)
            self._write(moved)
            self._last = None
        return np.array([entries[adapter.digest].slot for adapter in live], dtype=np.int32)

    def batch(self, live: list[HostedAdapter], slots: Tensor, row_start: Tensor) -> LoraBatch:
        """The batch in which live adapter `i`, in `slots[i]`, owns rows `[row_start[i], row_start[i + 1])`."""
        assert self._directory is not None, "the slots were asked for first"
        entries = [self._entries[adapter.digest] for adapter in live]
        key = [entry.slot for entry in entries]
        if self._last is None or self._last[0] != key:
            kept = tuple(entry.kept for entry in entries)
            targets = self.targets(live)
            assert targets is not None, "there are live adapters"
            self._last = (key, LoraBatch(row_start, slots, self._directory, modules=targets, kept=kept))
            return self._last[1]
        return self._last[1].with_rows(row_start)

    def fixed(self, slots: Tensor, row_start: Tensor, targets: frozenset[int], *, is_decode: bool) -> LoraBatch:
        """The batch of as many live adapters as there are `slots`; those that fill it up own no row.

        `targets` is one of `TARGETS`.
        """
        assert self._directory is not None, "the slots were asked for first"
        return LoraBatch(row_start, slots, self._directory, is_decode, targets)

    def targets(self, live: list[HostedAdapter]) -> frozenset[int] | None:
        """The least of `TARGETS` that has all modules of the live adapters; None if there are none."""
        if not live:
            return None
        entries = self._entries
        return TARGETS[max(entries[adapter.digest].target_set for adapter in live)]

    def forget(self, digest: str) -> None:
        """Give back the slot of an adapter that left the pool."""
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._free.append(entry.slot)

    def _make_room(self, count: int, live: list[HostedAdapter]) -> None:
        """Give back slots that a step does not need, as long as there are not `count` left of the most."""
        num_missing = len(self._entries) + count - self._max_slots
        if num_missing > 0:
            needed = {adapter.digest for adapter in live}
            for digest in [digest for digest in self._entries if digest not in needed][:num_missing]:
                self.forget(digest)

    def _write(self, adapters: list[HostedAdapter]) -> None:
        width = max(len(self._residency.pages_of(adapter.digest)) for adapter in adapters)
        max_rank = max(adapter.layout.max_rank for adapter in adapters)
        directory = self._directory = self._roomy(len(self._entries) + len(adapters), width, max_rank)
        page_table = np.full((len(adapters), directory.page_table.shape[1]), -1, dtype=np.int32)
        for row, adapter in zip(page_table, adapters, strict=True):
            pages = self._residency.pages_of(adapter.digest)
            row[: len(pages)] = pages
            self._entries[adapter.digest] = _Entry(self._free.pop(), pages, target_set(adapter.layout))
        places = np.stack([_places(adapter.layout) for adapter in adapters])
        scales = np.array([adapter.layout.scales for adapter in adapters], dtype=np.float32)
        slots = np.array([self._entries[adapter.digest].slot for adapter in adapters], dtype=np.int64)
        staged = to_device([slots, page_table, places, scales], self._device)
        for table, rows in zip((directory.page_table, directory.places, directory.scales), staged[1:], strict=True):
            table.index_copy_(0, staged[0], rows)

    def _roomy(self, num_entries: int, width: int, max_rank: int) -> LoraDirectory:
        """A directory with room for so many adapters of so many pages: the present one, or a larger copy."""
        old, geometry = self._directory, self._residency.geometry
        # In large steps: another directory costs the recordings that name this one.
        width = 1 << (width - 1).bit_length()
        max_rank = max(min(_FIRST_RANK, self._max_rank or _FIRST_RANK), 1 << (max_rank - 1).bit_length())
        num_slots = _FIRST_SLOTS if old is None else old.num_slots
        while num_slots < num_entries:
            num_slots *= 2
        if old is not None:
            width, max_rank = max(width, old.page_table.shape[1]), max(max_rank, old.max_rank)
            if (num_slots, width) == old.page_table.shape:
                return replace(old, max_rank=max_rank) if max_rank > old.max_rank else old
        size = (num_slots, geometry.shape.num_layers, len(MODULES))
        new = LoraDirectory(
            page_table=torch.full((num_slots, width), -1, dtype=torch.int32, device=self._device),
            places=torch.zeros((*size, 3), dtype=torch.int32, device=self._device),
            scales=torch.zeros(size, dtype=torch.float32, device=self._device),
            chunk_elements=geometry.chunk_elements,
            max_rank=max_rank,
        )
        if old is not None:
            new.page_table[: old.num_slots, : old.page_table.shape[1]] = old.page_table
            new.places[: old.num_slots] = old.places
            new.scales[: old.num_slots] = old.scales
        first = 0 if old is None else old.num_slots
        self._free.extend(reversed(range(first, num_slots)))
        return new


def target_set(layout: AdapterLayout) -> int:
    """The place of the first of `TARGETS` that has all modules of an adapter."""
    own = {module for ranks in layout.ranks for module, rank in enumerate(ranks) if rank}
    return next(index for index, modules in enumerate(TARGETS) if own <= modules)


def _places(layout: AdapterLayout) -> NDArray[np.int32]:
    """`[num_layers, 7, 3]`: ranks, and places of A and B."""
    ranks = np.array(layout.ranks, dtype=np.int32)
    return np.concatenate([ranks[..., None], np.array(layout.offsets, dtype=np.int32)], axis=-1)
