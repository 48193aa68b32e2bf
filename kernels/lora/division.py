"""Rows divided among the live adapters, and what follows from that alone."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from kernels.lora.batch import Kept

# Views of rows are kept up to here: they hold the tensor's memory, and a GEMM of more rows outweighs a view.
_MAX_KEPT_ROWS = 256


class Bridge(NamedTuple):
    """Between A and B: one adapter's rows in its ranks."""

    whole: Tensor  # [rows, sum of ranks]
    parts: tuple[Tensor, ...]  # [rows, rank], of each module


@dataclass(slots=True)
class _Seen:
    """The tensors that came last, and the segments of each."""

    tensors: list[Tensor]
    segments: list[tuple[Tensor, ...]]


class Division:
    """Rows divided at `starts`: segment 0 is the base model's, segment `i + 1` that of live adapter `i`.

    Attributes:
        starts: As `LoraBatch.starts`.
        sizes: Rows of each segment.
        derived: What an op made for rows so divided.
    """

    def __init__(self, starts: list[int]) -> None:
        self.starts = starts
        self.sizes = [starts[0], *(stop - start for start, stop in pairwise(starts))]
        self.derived: Kept = {}
        self._seen: dict[Hashable, _Seen] = {}
        self._bridges: dict[Hashable, Bridge] = {}

    def segments(self, place: Hashable, tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Each tensor's rows by segment. A tensor that was the last at its `place` has the same views again."""
        seen = self._seen.get(place)
        if seen is None:
            seen = _Seen(list(tensors), [tensor.split_with_sizes(self.sizes) for tensor in tensors])
            if self.starts[-1] <= _MAX_KEPT_ROWS:
                self._seen[place] = seen
            return seen.segments
        for index, tensor in enumerate(tensors):
            if seen.tensors[index] is not tensor:
                seen.tensors[index] = tensor
                seen.segments[index] = tensor.split_with_sizes(self.sizes)
        return seen.segments

    def bridge(self, segment: int, ranks: list[int], like: Tensor) -> Bridge:
        """Memory between A and B of the segment's rows, in the type of `like`; for one product at a time."""
        key = (self.sizes[segment], like.dtype, *ranks)
        bridge = self._bridges.get(key)
        if bridge is None:
            whole = like.new_empty(self.sizes[segment], sum(ranks))
            bridge = self._bridges[key] = Bridge(whole, whole.split_with_sizes(ranks, 1))
        return bridge
