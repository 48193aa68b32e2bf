"""The step's list of work, made on the device from the batch's few numbers, for all layers at once."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.device import num_processors
from kernels.launch import launch
from kernels.linear.kernel.tiles import WHOLE_TILE
from kernels.lora.batch import LoraBatch
from kernels.lora.kernel.tiling import (
    ADDED_ROWS,
    EXPAND_COLUMNS,
    EXPAND_RUNS,
    FEW_RANKS,
    FEW_ROWS,
    MANY_RANKS,
    Beside,
    Tiling,
    bridge_width,
    cost_of,
    room_of,
)

_ALIGNED = 4  # int32 of 16 bytes: kernels are compiled for addresses that are multiples of that, and again for others
SHARED_ROWS = 2  # of an adapter, on average: with as many, to read a matrix once beats adding by row
RECORD = 16  # numbers of a record: 64 bytes, which a program reads at once


@dataclass(frozen=True, eq=False)
class Plan:
    """What the tiles of a group of modules are, in every layer, and room for what goes between their kernels.

    Attributes:
        tiling: Sizes of tiles.
        starts: `[num_layers, 4, live + 1]` int32, each layer's at a multiple of 16 bytes; the first tile of each live
            adapter, and the number of tiles: of MBGMV's shrink, of MBGMM's shrink, of MBGMV's expand, of MBGMM's
            expand. MBGMV's of an expand count for as many as they cost. An expand has no tiles of adapters whose shares
            the linear layer adds.
        tile_owners: `[num_rows / 128, 4]` int32, rounded up; of each tile of as many rows how many adapters have rows
            of it whose shares the linear layer adds, and which. Empty if it adds none.
        records: `[num_layers, num_live, 16]` int32; an adapter's first row, number of rows, slot and columns of the
            bridge; then of each module the rank, the places of A and B, and the bits of the scale.
        owners: `[num_rows]` int32; the live adapter of each row that is added to by row: in a batch without prompts, or
            of up to `FEW_ROWS` rows, all; in others those of adapters of so few, unless these have `SHARED_ROWS` or
            more on average; else -1. Not read if the batch is not split.
        is_by_row: `[1]` int32; whether rows of adapters of so few have owners.
        bridge: `[num_rows, num_pieces, width]`; what shrinks leave to expands, an adapter's ranks of one module after
            those of the other, each with room for a multiple of 4: the sums of pieces of the inputs in float32, still
            to be added, or, of one, rounded.
        flags: `[num_processors]` int32, zeros between launches; by which programs tell each other what they left.
            Empty if linear layers do not shrink on processors apart.
    """

    tiling: Tiling
    starts: Tensor
    tile_owners: Tensor
    records: Tensor
    owners: Tensor
    is_by_row: Tensor
    bridge: Tensor
    flags: Tensor

    @classmethod
    def make(
        cls,
        batch: LoraBatch,
        modules: tuple[int, ...],
        x: Tensor,
        widths: list[int],
        *,
        beside: Beside,
    ) -> "Plan":
        """Launches what makes the plan; `beside` is what the batch's linear layers do."""
        directory, device = batch.directory, batch.slots.device
        num_rows, in_features = x.shape
        num_live, num_layers = batch.slots.shape[0], directory.places.shape[1]
        tiling = Tiling.of(num_rows, num_live, directory, beside=beside)
        width, num_pieces = bridge_width(len(modules), directory.max_rank), tiling.num_pieces(in_features)
        plan = cls(
            tiling,
            starts=_layers_of(num_layers, 4, tiling.live + 1, device),
            tile_owners=torch.empty(
                (-(-num_rows // WHOLE_TILE) if beside is Beside.ADDS else 0, 4), dtype=torch.int32, device=device
            ),
            records=torch.empty((num_layers, num_live, RECORD), dtype=torch.int32, device=device),
            owners=torch.empty(num_rows, dtype=torch.int32, device=device),
            is_by_row=torch.empty(1, dtype=torch.int32, device=device),
            bridge=torch.empty(
                (num_rows, num_pieces, width), dtype=torch.float32 if num_pieces > 1 else x.dtype, device=device
            ),
            flags=torch.zeros(
                num_processors(device) if beside is Beside.SHRINKS else 0, dtype=torch.int32, device=device
            ),
        )
        launch(
            _plan,
            (num_layers,),
            batch.row_start,
            batch.slots,
            directory.places,
            directory.scales,
            plan.starts,
            plan.tile_owners,
            plan.records,
            plan.owners,
            plan.is_by_row,
            num_live,
            num_rows,
            plan.tile_owners.shape[0],
            *[*modules, 0, 0][:3],
            *[*widths, 0, 0][:3],
            int(batch.is_decode or not tiling.has_many),
            MODULES=len(modules),
            PIECES=num_pieces,
            FEW=FEW_ROWS if tiling.has_few else 0,
            SHRINK_FEW=tiling.shrink_few,
            FEW_TILE_ROWS=FEW_ROWS,
            FEW_RANKS=FEW_RANKS,
            ROWS=tiling.shrink_rows,
            RANKS=MANY_RANKS,
            RECORD=RECORD,
            LIVE=tiling.live,
            LAYER_STARTS=plan.starts.stride(0),
            OWNED=16,
            STEP_ROWS=tiling.expand_rows,
            FEW_TILE=EXPAND_RUNS * tiling.few_columns,
            MANY_TILE=EXPAND_COLUMNS,
            SHARED_ROWS=SHARED_ROWS,
            ADDED_ROWS=ADDED_ROWS if beside is Beside.ADDS else 0,
            TILE=WHOLE_TILE,
        )
        return plan


def _layers_of(num_layers: int, num_rows: int, num_columns: int, device: torch.device) -> Tensor:
    """Memory for int32 `[num_layers, num_rows, num_columns]`, each layer's at a multiple of `_ALIGNED`."""
    num_each = num_rows * num_columns
    memory = torch.empty((num_layers, -(-num_each // _ALIGNED) * _ALIGNED), dtype=torch.int32, device=device)
    return memory[:, :num_each].view(num_layers, num_rows, num_columns)


@triton.jit(
    do_not_specialize=[
        "num_live", "num_rows", "num_row_tiles", "name0", "name1", "name2", "width0", "width1", "width2",
        "is_all_by_row",
    ]
)  # fmt: skip
def _plan(
    row_start,
    slots,
    places,
    scales,
    starts,
    tile_owners,
    records,
    owners,
    is_by_row,
    num_live,
    num_rows,
    num_row_tiles,
    name0,
    name1,
    name2,
    width0,
    width1,
    width2,
    is_all_by_row,
    MODULES: tl.constexpr,
    PIECES: tl.constexpr,
    FEW: tl.constexpr,
    SHRINK_FEW: tl.constexpr,
    FEW_TILE_ROWS: tl.constexpr,
    FEW_RANKS: tl.constexpr,
    ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    RECORD: tl.constexpr,
    LIVE: tl.constexpr,
    LAYER_STARTS: tl.constexpr,
    OWNED: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    FEW_TILE: tl.constexpr,
    MANY_TILE: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
    ADDED_ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    layer = tl.program_id(0)
    num_layers = tl.num_programs(0)
    adapter = tl.arange(0, LIVE)
    is_live = adapter < num_live
    slot = tl.load(slots + adapter, mask=is_live, other=0)
    first = tl.load(row_start + adapter, mask=is_live, other=2147483647)
    count = tl.where(is_live, tl.load(row_start + adapter + 1, mask=is_live, other=0) - first, 0)
    record = records + (layer * num_live + adapter) * RECORD
    total = tl.zeros((LIVE,), tl.int32)
    few_costs = tl.zeros((LIVE,), tl.int32)
    many_costs = tl.zeros((LIVE,), tl.int32)
    for module in tl.static_range(MODULES):
        name = name0 if module == 0 else (name1 if module == 1 else name2)
        site = (slot.to(tl.int64) * num_layers + layer) * 7 + name
        rank = tl.load(places + site * 3, mask=is_live, other=0)
        scale = tl.load(scales + site, mask=is_live, other=0.0)
        tl.store(record + 4 + module * 4, rank, mask=is_live)
        tl.store(record + 5 + module * 4, tl.load(places + site * 3 + 1, mask=is_live, other=0), mask=is_live)
        tl.store(record + 6 + module * 4, tl.load(places + site * 3 + 2, mask=is_live, other=0), mask=is_live)
        tl.store(record + 7 + module * 4, scale.to(tl.int32, bitcast=True), mask=is_live)
        total += room_of(rank)
        width = width0 if module == 0 else (width1 if module == 1 else width2)
        few_costs += tl.where(rank > 0, (width + FEW_TILE - 1) // FEW_TILE * cost_of(rank, True), 0)
        many_costs += tl.where(rank > 0, (width + MANY_TILE - 1) // MANY_TILE * cost_of(rank, False), 0)
    tl.store(record, first, mask=is_live)
    tl.store(record + 1, count, mask=is_live)
    tl.store(record + 2, slot, mask=is_live)
    tl.store(record + 3, total, mask=is_live)

    out = starts + layer * LAYER_STARTS
    is_few = (count > 0) & (count <= FEW)
    few_blocks = (total + FEW_RANKS - 1) // FEW_RANKS
    row_tiles = tl.where(count <= SHRINK_FEW, (count + FEW_TILE_ROWS - 1) // FEW_TILE_ROWS, 0)
    _store_starts(out, row_tiles * few_blocks * PIECES, adapter, LIVE)
    many_blocks = (total + RANKS - 1) // RANKS * PIECES
    row_tiles = tl.where(count > SHRINK_FEW, (count + ROWS - 1) // ROWS, 0)
    _store_starts(out + LIVE + 1, row_tiles * many_blocks, adapter, LIVE)
    _store_starts(out + 2 * (LIVE + 1), tl.where(is_few, few_costs, 0), adapter, LIVE)
    is_expanded = count > FEW
    if ADDED_ROWS > 0:
        is_expanded &= count < ADDED_ROWS
        for tile in range(layer, num_row_tiles, num_layers):
            begin = tile * TILE
            is_owner = (count >= ADDED_ROWS) & (first < begin + TILE) & (begin < first + count)
            place = tile_owners + tile * 4 + tl.cumsum(is_owner.to(tl.int32), 0)
            tl.store(place, adapter, mask=is_owner)
            tl.store(tile_owners + tile * 4, tl.sum(is_owner.to(tl.int32), 0))
    row_tiles = tl.where(is_expanded, (count + STEP_ROWS - 1) // STEP_ROWS, 0)
    _store_starts(out + 3 * (LIVE + 1), row_tiles * many_costs, adapter, LIVE)

    num_few_rows = tl.sum(tl.where(is_few, count, 0), 0)
    is_all = is_all_by_row != 0
    is_alone = num_few_rows < SHARED_ROWS * tl.sum(is_few.to(tl.int32), 0)
    if layer == 0:
        tl.store(is_by_row, (is_all | is_alone).to(tl.int32))
    end = tl.where(is_all | (is_alone & is_few), first + count, 0)
    for begin in range(layer * OWNED, num_rows, num_layers * OWNED):
        row = begin + tl.arange(0, OWNED)
        is_owned = (first[None, :] <= row[:, None]) & (row[:, None] < end[None, :])
        tl.store(owners + row, tl.max(tl.where(is_owned, adapter[None, :], -1), 1), mask=row < num_rows)


@triton.jit
def _store_starts(out, counts, adapter, LIVE: tl.constexpr):
    tl.store(out + adapter, tl.cumsum(counts, 0) - counts)
    tl.store(out + LIVE, tl.sum(counts, 0))
