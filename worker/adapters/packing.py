"""Lays an adapter's matrices out in host pages, as worker/memory/layout.py describes."""

from collections.abc import Sequence

import torch

from worker.adapters.errors import AdapterNotFinite
from worker.adapters.weights import AdapterWeights
from worker.memory.host_arena import HostArena
from worker.memory.layout import MODULES


def pack_weights(weights: AdapterWeights, arena: HostArena, pages: Sequence[int]) -> None:
    """Writes every layer's stream to `pages` of the arena, in its type; what lies behind a stream is zero.

    Raises:
        AdapterNotFinite: a weight is too large for the arena's type.
        HostMemoryFull: the file system under the arena is full.
    """
    arena.reserve(pages)
    layout = weights.layout
    page_elements = arena.page(pages[0]).shape[1]
    stream = torch.empty(len(pages) * page_elements, dtype=arena.dtype)
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
        for index, page in enumerate(pages):
            arena.page(page)[layer].copy_(stream[index * page_elements : (index + 1) * page_elements])
