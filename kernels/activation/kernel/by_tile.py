"""SwiGLU's product of tiles of an adapter's rows, which adds what the adapter has for gate and up on its way.

Of large batches: so neither makes a trip to memory with its sum. As in an expand of these, a program keeps a run of
columns, of both matrices, and reads ahead tiles of rows. Rows without an adapter are multiplied with nothing.
"""

import triton
import triton.language as tl
from torch import Tensor

from kernels.activation.kernel.by_row import product_of
from kernels.chain import resident
from kernels.launch import launch
from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.delta import part_of, sum_of
from kernels.lora.kernel.expand_many import b_columns
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import EXPAND_COLUMNS, LARGE_ROWS, adapter_of, precision_of, room_of

_ROWS = 16  # at a time: few registers, so that many programs read ahead


def silu_mul_by_tile(output: Tensor, gate_up: Tensor, delta: LoraDelta) -> None:
    """Fills `output`, in a batch that is not split; `gate_up` stays as it is."""
    plan, batch, pages = delta.plan, delta.batch, delta.pages
    tiling, page_table = plan.tiling, batch.directory.page_table
    num_programs, options = resident(pages.device, 4, registers=128)
    launch(
        _silu_mul_by_tile,
        (num_programs,),
        output,
        gate_up,
        batch.row_start,
        pages,
        page_table,
        plan.starts[delta.layer],
        plan.records[delta.layer],
        plan.bridge,
        gate_up.stride(0),
        page_table.shape[1],
        batch.slots.shape[0],
        output.shape[0],
        OUT=output.shape[1],
        PRECISION=precision_of(pages.dtype),
        WIDTH=plan.bridge.shape[2],
        PAGE=pages.shape[1],
        RECORD=RECORD,
        ROWS=_ROWS,
        LARGE_ROWS=LARGE_ROWS,
        RANKS=tiling.expand_ranks,
        HAS_LATER=batch.directory.max_rank > tiling.expand_ranks,
        COLUMNS=EXPAND_COLUMNS,
        ROWWISE=batch.directory.chunk_elements % EXPAND_COLUMNS == 0,
        LIVE=tiling.live,
        **options,
    )


@triton.jit(do_not_specialize=["table_stride", "num_live", "num_rows"])
def _silu_mul_by_tile(
    output,
    gate_up,
    row_start,
    pages,
    page_table,
    starts,
    records,
    bridge,
    row_stride,
    table_stride,
    num_live,
    num_rows,
    OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    RECORD: tl.constexpr,
    ROWS: tl.constexpr,
    LARGE_ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    HAS_LATER: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    LIVE: tl.constexpr,
    PRECISION: tl.constexpr,
    CHAINED: tl.constexpr,
):
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
    starts += 4 * (LIVE + 1)
    own_starts = tl.load(starts + tl.arange(0, LIVE))
    num_adapted = tl.load(starts + LIVE)
    # Rows without an adapter: those before the first that has one, and those after the last.
    ends = (tl.load(row_start), tl.load(row_start + num_live))
    rest_blocks = (ends[0] + LARGE_ROWS - 1) // LARGE_ROWS + (num_rows - ends[1] + LARGE_ROWS - 1) // LARGE_ROWS
    num_tiles = num_adapted + rest_blocks * ((OUT + COLUMNS - 1) // COLUMNS)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    for tile in tl.range(tl.program_id(0), num_tiles, tl.num_programs(0), num_stages=1):
        row, own_rows, record, gate_rank, up_rank, column = _tile_of(
            tile, num_adapted, starts, own_starts, records, ends, num_rows, OUT, RECORD, LARGE_ROWS, COLUMNS
        )
        _many_rows(
            output, gate_up, row_stride, bridge, row, own_rows, pages, page_table, table_stride, record, gate_rank,
            up_rank, column * COLUMNS, OUT, WIDTH, PAGE, COLUMNS, ROWWISE, ROWS, LARGE_ROWS, RANKS, HAS_LATER,
            PRECISION,
        )  # fmt: skip


@triton.jit
def _tile_of(
    tile,
    num_adapted,
    starts,
    own_starts,
    records,
    ends,
    num_rows,
    OUT: tl.constexpr,
    RECORD: tl.constexpr,
    LARGE_ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What a tile of `LARGE_ROWS` times `COLUMNS` is of; those from `num_adapted` on are of rows without an adapter.

    Returns its first row, and how many there are from there on; the adapter's record, and its ranks for gate and up;
    and which of the tiles of columns it is.
    """
    COLUMN_TILES: tl.constexpr = (OUT + COLUMNS - 1) // COLUMNS
    is_rest = tile >= num_adapted
    live = tl.where(is_rest, 0, adapter_of(own_starts, tile))
    record = records + live * RECORD
    local = tile - tl.where(is_rest, num_adapted, tl.load(starts + live))
    skipped = local // COLUMN_TILES * LARGE_ROWS
    # Rows that tiles in front of the adapters' have room for.
    before = (ends[0] + LARGE_ROWS - 1) // LARGE_ROWS * LARGE_ROWS
    rest = tl.where(skipped < before, skipped, ends[1] + skipped - before)
    end_rest = tl.where(skipped < before, ends[0], num_rows)
    row = tl.where(is_rest, rest, tl.load(record) + skipped)
    own_rows = tl.where(is_rest, end_rest - rest, tl.load(record + 1) - skipped)
    gate_rank = tl.where(is_rest, 0, tl.load(record + 4))
    up_rank = tl.where(is_rest, 0, tl.load(record + 8))
    return row, own_rows, record, gate_rank, up_rank, local % COLUMN_TILES


@triton.jit
def _many_rows(
    output,
    gate_up,
    row_stride,
    bridge,
    row,
    num_rows,
    pages,
    page_table,
    table_stride,
    record,
    gate_rank,
    up_rank,
    start,
    OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    PAGE: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWWISE: tl.constexpr,
    ROWS: tl.constexpr,
    MOST_ROWS: tl.constexpr,
    RANKS: tl.constexpr,
    HAS_LATER: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A run of columns of up to `MOST_ROWS` rows, `ROWS` at a time, read while those before are worked on."""
    t = tl.arange(0, ROWS)
    n = start + tl.arange(0, COLUMNS)
    r = tl.arange(0, RANKS)
    dtype: tl.constexpr = pages.dtype.element_ty
    end = tl.minimum(MOST_ROWS, num_rows)
    is_column = (n < OUT)[None, :]
    table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
    gate_place, up_place = tl.load(record + 6), tl.load(record + 10)
    # Nothing times a scale that is not finite would be something.
    gate_scale = tl.where(gate_rank > 0, tl.load(record + 7).to(tl.float32, bitcast=True), 0.0)
    up_scale = tl.where(up_rank > 0, tl.load(record + 11).to(tl.float32, bitcast=True), 0.0)
    gate_b = b_columns(pages, table, gate_place, gate_rank, r, start, OUT, PAGE, COLUMNS, ROWWISE)
    up_b = b_columns(pages, table, up_place, up_rank, r, start, OUT, PAGE, COLUMNS, ROWWISE)
    gate_room, up_room = room_of(gate_rank), room_of(up_rank)
    is_gate, is_up = (r < gate_rank)[None, :], (r < up_rank)[None, :]
    gate_there, up_there = (r < gate_room)[None, :], (r < up_room)[None, :]
    parts = bridge + (row + t).to(tl.int64)[:, None] * WIDTH + r[None, :]
    given = gate_up + (row + t).to(tl.int64)[:, None] * row_stride + n[None, :]
    outs = output + (row + t).to(tl.int64)[:, None] * OUT + n[None, :]
    is_row = (t < num_rows)[:, None]
    gate_part = part_of(parts, is_row & gate_there, is_gate, dtype, 1, WIDTH)
    up_part = part_of(parts + gate_room, is_row & up_there, is_up, dtype, 1, WIDTH)
    gate = tl.load(given, mask=is_row & is_column, other=0.0)
    up = tl.load(given + OUT, mask=is_row & is_column, other=0.0)
    for step in tl.range(0, end, ROWS, num_stages=1):
        is_next = (step + ROWS + t < end)[:, None]
        next_parts = parts + ROWS * WIDTH
        next_gate_part = part_of(next_parts, is_next & gate_there, is_gate, dtype, 1, WIDTH)
        next_up_part = part_of(next_parts + gate_room, is_next & up_there, is_up, dtype, 1, WIDTH)
        given += ROWS * row_stride
        next_gate = tl.load(given, mask=is_next & is_column, other=0.0)
        next_up = tl.load(given + OUT, mask=is_next & is_column, other=0.0)
        is_row = (step + t < num_rows)[:, None]
        gate_share = tl.dot(gate_part, gate_b, input_precision=PRECISION)
        up_share = tl.dot(up_part, up_b, input_precision=PRECISION)
        for block in tl.range(RANKS, tl.maximum(gate_rank, up_rank) if HAS_LATER else 0, RANKS, num_stages=1):
            later = block + r
            b = b_columns(pages, table, gate_place, gate_rank, later, start, OUT, PAGE, COLUMNS, ROWWISE)
            there = is_row & (later < gate_room)[None, :]
            part = part_of(parts + block, there, (later < gate_rank)[None, :], dtype, 1, WIDTH)
            gate_share = tl.dot(part, b, gate_share, input_precision=PRECISION)
            b = b_columns(pages, table, up_place, up_rank, later, start, OUT, PAGE, COLUMNS, ROWWISE)
            there = is_row & (later < up_room)[None, :]
            part = part_of(parts + gate_room + block, there, (later < up_rank)[None, :], dtype, 1, WIDTH)
            up_share = tl.dot(part, b, up_share, input_precision=PRECISION)
        product = product_of(sum_of(gate, gate_share, gate_scale), sum_of(up, up_share, up_scale), dtype)
        tl.store(outs, product, mask=is_row & is_column)
        gate_part, up_part, gate, up = next_gate_part, next_up_part, next_gate, next_up
        parts = next_parts
        outs += ROWS * OUT
