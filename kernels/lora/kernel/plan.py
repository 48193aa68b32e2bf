"""The step's list of work, made on the device from the batch's few numbers, for all layers at once."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.tiling import EXPAND_ROWS, FEW_RANKS, FEW_ROWS, Tiling, bridge_width

RECORD = 16  # numbers of a record: 64 bytes, which a program reads at once


@dataclass(frozen=True, eq=False)
class Plan:
    """What the tiles of a group of modules are, in every layer, and room for what goes between their kernels.

    Attributes:
        tiling: Sizes of tiles.
        starts: `[num_layers, 4, live + 2]` int32; the first tile of each live adapter, the number of tiles, and the
            spans of a tile of MBGMV's shrink: for MBGMV's shrink, MBGMM's shrink, MBGMV's expand, MBGMM's expand.
        records: `[num_layers, num_live, 16]` int32; an adapter's first row, number of rows, slot and sum of ranks; then
            of each module the rank, the places of A and B, and the bits of the scale.
        bridge: `[num_rows, width]`, of the pages' dtype; what the shrinks leave to the expands, an adapter's ranks of
            one module after those of the other.
        partials: `[_, num_spans, width]` float32; sums of spans, before they are added.
        counters: Spans that are ready, int32; zero between launches.
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
        num_wanted: int,
    ) -> "Plan":
        """Launches what makes the plan, with about `num_wanted` tiles of MBGMV's shrink, or as many as can be."""
        directory, device = batch.directory, batch.slots.device
        num_live, num_layers = batch.slots.shape[0], directory.places.shape[1]
        tiling = Tiling.of(num_rows, num_live, directory)
        width, num_spans = bridge_width(len(modules), directory.max_rank), tiling.num_spans(in_features)
        num_partials, num_counters = FEW_ROWS * num_live, num_live * (width // FEW_RANKS)
        if tiling.is_split:
            num_partials += num_rows
            num_counters += (num_rows // tiling.rows + num_live) * (width // tiling.ranks)
        plan = cls(
            tiling,
            starts=torch.empty((num_layers, 4, tiling.live + 2), dtype=torch.int32, device=device),
            records=torch.empty((num_layers, num_live, RECORD), dtype=torch.int32, device=device),
            bridge=torch.empty((num_rows, width), dtype=dtype, device=device),
            partials=torch.empty((num_partials, num_spans, width), dtype=torch.float32, device=device),
            counters=torch.empty(num_counters, dtype=torch.int32, device=device),
        )
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
            num_wanted,
            *[*modules, 0, 0][:3],
            *[*widths, 0, 0][:3],
            MODULES=len(modules),
            SPANS=num_spans,
            SPLIT=tiling.is_split,
            ROWS=tiling.rows,
            RANKS=tiling.ranks,
            RECORD=RECORD,
            STEP_ROWS=tiling.steps * EXPAND_ROWS,
            **tiling.constants,
        )
        return plan


@triton.jit(
    do_not_specialize=[
        "num_live",
        "num_counters",
        "num_wanted",
        "name0",
        "name1",
        "name2",
        "width0",
        "width1",
        "width2",
    ]
)
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
    num_wanted,
    name0,
    name1,
    name2,
    width0,
    width1,
    width2,
    MODULES: tl.constexpr,
    SPANS: tl.constexpr,
    SPLIT: tl.constexpr,
    RECORD: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    SUB: tl.constexpr,
    SUBS: tl.constexpr,
    FEW: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    ROOM: tl.constexpr,
    LIVE: tl.constexpr,
):
    layer = tl.program_id(0)
    num_layers = tl.num_programs(0)
    adapter = tl.arange(0, LIVE)
    is_live = adapter < num_live
    slot = tl.load(slots + adapter, mask=is_live, other=0)
    row = tl.load(row_start + adapter, mask=is_live, other=0)
    num_rows = tl.load(row_start + adapter + 1, mask=is_live, other=0) - row
    record = records + (layer * num_live + adapter) * RECORD
    is_few = (num_rows > 0) & (num_rows <= FEW)
    total = tl.zeros((LIVE,), tl.int32)
    many_columns = tl.zeros((LIVE,), tl.int32)
    few_columns = tl.zeros((LIVE,), tl.int32)
    for module in tl.static_range(MODULES):
        name = _of_three(module, name0, name1, name2)
        width = _of_three(module, width0, width1, width2)
        site = (slot.to(tl.int64) * num_layers + layer) * 7 + name
        rank = tl.load(places + site * 3, mask=is_live, other=0)
        scale = tl.load(scales + site, mask=is_live, other=0.0)
        tl.store(record + 4 + module * 4, rank, mask=is_live)
        tl.store(record + 5 + module * 4, tl.load(places + site * 3 + 1, mask=is_live, other=0), mask=is_live)
        tl.store(record + 6 + module * 4, tl.load(places + site * 3 + 2, mask=is_live, other=0), mask=is_live)
        tl.store(record + 7 + module * 4, scale.to(tl.int32, bitcast=True), mask=is_live)
        total += rank
        many_columns += tl.where(rank > 0, (width + SUB - 1) // SUB, 0)
        few_columns += tl.where(rank > 0, (width + SUBS * SUB - 1) // (SUBS * SUB), 0)
    tl.store(record, row, mask=is_live)
    tl.store(record + 1, num_rows, mask=is_live)
    tl.store(record + 2, slot, mask=is_live)
    tl.store(record + 3, total, mask=is_live)
    out = starts + layer * 4 * ROOM

    few_blocks = tl.where(is_few, (total + FEW_RANKS - 1) // FEW_RANKS, 0)
    num_blocks = tl.maximum(tl.sum(few_blocks, 0), 1)
    pieces = tl.minimum((num_wanted + num_blocks) // num_blocks, SPANS)
    spans = (SPANS + pieces - 1) // pieces
    _store_starts(out, few_blocks * ((SPANS + spans - 1) // spans), spans, adapter, LIVE)

    many_blocks = (total + RANKS - 1) // RANKS
    if SPLIT:
        many_blocks *= SPANS
    row_tiles = tl.where(num_rows > FEW, (num_rows + ROWS - 1) // ROWS, 0)
    _store_starts(out + ROOM, row_tiles * many_blocks, 0, adapter, LIVE)

    _store_starts(out + 2 * ROOM, tl.where(is_few, few_columns, 0), 0, adapter, LIVE)

    row_tiles = tl.where(num_rows > FEW, (num_rows + STEP_ROWS - 1) // STEP_ROWS, 0)
    _store_starts(out + 3 * ROOM, row_tiles * many_columns, 0, adapter, LIVE)
    for first in range(layer * LIVE, num_counters, num_layers * LIVE):
        tl.store(counters + first + adapter, tl.zeros((LIVE,), tl.int32), mask=first + adapter < num_counters)


@triton.jit
def _of_three(module: tl.constexpr, first, second, third):
    return first if module == 0 else (second if module == 1 else third)


@triton.jit
def _store_starts(out, counts, spans, adapter, LIVE: tl.constexpr):
    tl.store(out + adapter, tl.cumsum(counts, 0) - counts)
    tl.store(out + LIVE, tl.sum(counts, 0))
    tl.store(out + LIVE + 1, spans)
