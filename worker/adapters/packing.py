"""Lays an adapter's matrices out in host pages, as worker/memory/layout.py describes."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from worker.adapters.errors import AdapterNotFinite
from worker.adapters.weights import AdapterWeights
from worker.memory.host_arena import HostArena
from worker.memory.layout import MODULES, AdapterLayout


def pack_weights(weights: AdapterWeights, arena: HostArena, pages: Sequence[int]) -> AdapterLayout:
    """Writes every layer's stream to `pages` of the arena, in its type; what lies behind a stream is zero.

    A scale that B takes up without any rounding, as a power of two is, goes into B, so that no step has to apply it.

    Returns:
        The layout of what was written: that of `weights`, with scale 1 where B took the scale up.

    Raises:
        AdapterNotFinite: a weight is too large for the arena's type.
        HostMemoryFull: the file system under the arena is full.
    """
    arena.reserve(pages)
    layout = weights.layout
    page_elements = arena.page(pages[0]).shape[1]
    stream = torch.empty(len(pages) * page_elements, dtype=arena.dtype)
    scales = [list(row) for row in layout.scales]
    for layer in range(layout.shape.num_layers):
        stream.zero_()
        for module, rank in enumerate(layout.ranks[layer]):
            if rank == 0:
                continue
            pair = weights.matrices[layer, module]
            for start, rows in zip(layout.offsets[layer][module], (pair.a, pair.b.t()), strict=True):
                target = stream[start : start + rows.numel()].view(rows.shape)  # [rank, in] or [rank, out]
                target.copy_(rows)
                if rows.dtype != arena.dtype and not torch.isfinite(target).all():
                    raise AdapterNotFinite(
                        f"layers.{layer}.{MODULES[module]} holds a weight too large for {arena.dtype}, the type that "
                        f"this worker computes in"
                    )
            if _take_up(target, scales[layer][module]):  # the last of the two is B
                scales[layer][module] = 1.0
        for index, page in enumerate(pages):
            arena.page(page)[layer].copy_(stream[index * page_elements : (index + 1) * page_elements])
    return replace(layout, scales=tuple(map(tuple, scales)))


def _take_up(b: Tensor, scale: float) -> bool:
    """Multiplies B by the scale if that is exact in its type, and says whether it did."""
    is_power_of_two = math.frexp(scale)[0] == 0.5
    scaled = b * scale
    # Too large for the type it is infinite, and too small it lost bits: either way it does not come back.
    if not is_power_of_two or not torch.equal(scaled / scale, b):
        return False
    b.copy_(scaled)
    return True
