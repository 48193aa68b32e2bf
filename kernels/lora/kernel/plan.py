"""The step's list of work, made on the device from the batch's few numbers, for all layers at once."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.tiling import FEW_ROWS, Tiling, padded_rank


@dataclass(frozen=True, eq=False)
class Plan:
    """What the tiles of a group of modules are, in every layer, and room for what goes between their kernels.

    Attributes:
        tiling: Sizes of tiles.
        starts: `[num_layers, 4, live + 1]` int32; the first tile of each live adapter and at last the number of
            tiles: of MBGMV's shrink, MBGMM's shrink, MBGMV's expand, MBGMM's expand.
        records: `[num_layers, num_live, num_modules, 4]` int32; rank, places of A and B, and the bits of the scale.
        bridge: `[num_rows, num_modules, padded_rank]`, of the pages' dtype; what the shrinks leave to the expands.
        partials: Sums of spans, float32, before they are added.
        counters: Slices that are ready, int32; zero between launches.
    """

    tiling: Tiling
    starts: Tensor
    records: Tensor
    bridge: Tensor
    partials: Tensor
    counters: Tensor

    @classmethod
    def make(
        cls,
        batch: LoraBatch,
        modules: tuple[int, ...],
        num_rows: int,
        in_features: int,
        widths: list[int],
        dtype: torch.dtype,
    ) -> "Plan":
        """Launches what makes the plan."""
        directory, device = batch.directory, batch.slots.device
        num_live, num_layers = batch.slots.shape[0], directory.places.shape[1]
        tiling = Tiling.of(num_rows, num_live, directory.chunk_elements)
        rank = padded_rank(directory.max_rank)
        num_spans = tiling.num_spans(in_features)
        num_partials = FEW_ROWS * num_live + (num_rows if tiling.is_split else 0)
        num_counters = num_live * len(modules) * (rank // 16)
        if tiling.is_split:
            num_counters += (num_rows // tiling.rows + num_live) * len(modules) * (rank // tiling.ranks)
        plan = cls(
            tiling,
            starts=torch.empty((num_layers, 4, tiling.live + 1), dtype=torch.int32, device=device),
            records=torch.empty((num_layers, num_live, len(modules), 4), dtype=torch.int32, device=device),
            bridge=torch.empty((num_rows, len(modules), rank), dtype=dtype, device=device),
            partials=torch.empty((num_partials, num_spans, len(modules), rank), dtype=torch.float32, device=device),
            counters=torch.empty(num_counters, dtype=torch.int32, device=device),
        )
        names = [*modules, *modules[:1] * 2][:3]
        outs = [*widths, 0, 0][:3]
        _plan[(num_layers,)](
            batch.row_start,
            batch.slots,
            directory.places,
            directory.scales,
            plan.starts,
            plan.records,
            plan.counters,
            num_live,
            num_counters,
            *names,
            *outs,
            MODULES=len(modules),
            SPANS=num_spans,
            SPLIT=tiling.is_split,
            **tiling.constants,
        )
        return plan


@triton.jit
def _plan(
    row_start,
    slots,
    places,
    scales,
    starts,
    records,
    counters,
    num_live,
    num_counters,
    name0,
    name1,
    name2,
    width0,
    width1,
    width2,
    MODULES: tl.constexpr,
    SPANS: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    SPLIT: tl.constexpr,
    LIVE: tl.constexpr,
):
    layer = tl.program_id(0)
    num_layers = tl.num_programs(0)
    adapter = tl.arange(0, LIVE)
    is_live = adapter < num_live
    slot = tl.load(slots + adapter, mask=is_live, other=0)
    first_row = tl.load(row_start + adapter, mask=is_live, other=0)
    num_rows = tl.load(row_start + adapter + 1, mask=is_live, other=0) - first_row
    few_blocks = tl.zeros((LIVE,), tl.int32)
    few_units = tl.zeros((LIVE,), tl.int32)
    many_blocks = tl.zeros((LIVE,), tl.int32)
    many_units = tl.zeros((LIVE,), tl.int32)
    for m in tl.static_range(MODULES):
        name = name0
        width = width0
        if m == 1:
            name = name1
            width = width1
        if m == 2:
            name = name2
            width = width2
        site = (slot.to(tl.int64) * num_layers + layer) * 7 + name
        rank = tl.load(places + site * 3, mask=is_live, other=0)
        record = records + ((layer * num_live + adapter) * MODULES + m) * 4
        tl.store(record, rank, mask=is_live)
        tl.store(record + 1, tl.load(places + site * 3 + 1, mask=is_live, other=0), mask=is_live)
        tl.store(record + 2, tl.load(places + site * 3 + 2, mask=is_live, other=0), mask=is_live)
        scale = tl.load(scales + site, mask=is_live, other=0.0)
        tl.store(record + 3, scale.to(tl.int32, bitcast=True), mask=is_live)
        few = (rank + FEW_RANKS - 1) // FEW_RANKS
        few_blocks += few
        few_units += few * ((width + SUBS * SUB - 1) // (SUBS * SUB))
        many_blocks += (rank + RANKS - 1) // RANKS
        many_units += tl.where(rank > 0, (width + SUB - 1) // SUB, 0)
    is_few = (num_rows > 0) & (num_rows <= FEW)
    row_tiles = tl.where(num_rows > FEW, (num_rows + ROWS - 1) // ROWS, 0)
    if SPLIT:
        many_blocks *= SPANS
    out = starts + layer * 4 * (LIVE + 1)
    _store_starts(out, tl.where(is_few, few_blocks * SPANS, 0), adapter, LIVE)
    _store_starts(out + (LIVE + 1), row_tiles * many_blocks, adapter, LIVE)
    _store_starts(out + 2 * (LIVE + 1), tl.where(is_few, few_units, 0), adapter, LIVE)
    _store_starts(out + 3 * (LIVE + 1), row_tiles * many_units, adapter, LIVE)
    for first in range(layer * LIVE, num_counters, num_layers * LIVE):
        tl.store(counters + first + adapter, tl.zeros((LIVE,), tl.int32), mask=first + adapter < num_counters)


@triton.jit
def _store_starts(out, counts, adapter, LIVE: tl.constexpr):
    tl.store(out + adapter, tl.cumsum(counts, 0) - counts)
    tl.store(out + LIVE, tl.sum(counts, 0))
