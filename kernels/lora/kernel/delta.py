"""What adapters add to a row of outputs: for kernels that read those outputs anyway, and add it on the way.

A row whose adapter has few others is multiplied on the plain cores: to fill a tensor core with one row and zeros is far
more work. A program takes a row and `RUNS` runs of `RUN` columns.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.lora.delta import LoraDelta
from kernels.lora.kernel.plan import RECORD
from kernels.lora.kernel.tiling import FEW_ROWS, page_of, room_of, run_of

MIN_COLUMNS = 16  # of a program
_RANKS = 16  # rows of a matrix that are multiplied at a time
MOST_RANKS = 4096  # rows times the largest rank; beyond, `expand` is faster, though it costs a launch
SMALL_RANK = 32  # where adapters may have more ranks, `expand` is faster for all but a few rows
EARLY_ROWS = 64  # with more, the kernel before fills the GPU until it ends


def is_by_row(delta: LoraDelta) -> bool:
    """Whether the rows that the plan gives owners are best multiplied one by one; if not, `expand` adds all first."""
    return delta.plan.tiling.is_split and delta.x.shape[0] <= most_rows(delta.batch.directory.max_rank)


def most_rows(max_rank: int) -> int:
    """Rows of a batch that are added to by row, at most."""
    return MOST_RANKS // max(1, max_rank) if max_rank <= SMALL_RANK else FEW_ROWS


def is_early(delta: LoraDelta) -> bool:
    """Whether what a program multiplies is asked for before the kernel in front has ended."""
    return delta.x.shape[0] <= EARLY_ROWS


def arguments(delta: LoraDelta | None, like: Tensor) -> dict[str, Any]:
    """What a kernel that calls `share_of` is given for it, by its parameters' names; `like` stands for nothing."""
    if delta is None:
        names = ("bridge", "owners", "records", "lora_pages", "page_table")
        constants = {"table_stride": 0, "HAS_DELTA": False, "PIECES": 1, "BRIDGE": 1, "RECORD": 1, "PAGE": 1}
        constants |= {"EARLY": False}
        return dict.fromkeys(names, like) | constants | {"RANKS": _RANKS}
    plan, page_table = delta.plan, delta.batch.directory.page_table
    return {
        "bridge": plan.bridge,
        "owners": plan.owners,
        "records": plan.records[delta.layer],
        "lora_pages": delta.pages,
        "page_table": page_table,
        "table_stride": page_table.shape[1],
        "HAS_DELTA": True,
        "PIECES": plan.bridge.shape[1],
        "BRIDGE": plan.bridge.shape[2],
        "RECORD": RECORD,
        "PAGE": delta.pages.shape[1],
        "RANKS": _RANKS,
        "EARLY": is_early(delta),
    }


def run_length(delta: LoraDelta | None, most: int) -> int:
    """Columns that a program may take in one run: pages do not cut it, if any run of 16 or more is safe."""
    return most if delta is None else run_of(delta.batch.directory, most)


def is_runwise(delta: LoraDelta | None, run: int) -> bool:
    """Whether page borders cut no run of `run` columns that begins at a multiple of it."""
    return delta is not None and run % 16 == 0 and delta.batch.directory.chunk_elements % run == 0


@triton.jit
def owned(owner, module, records, page_table, table_stride, MODULES: tl.constexpr, RECORD: tl.constexpr):
    """What the owner of a row has of the modules that runs of columns belong to; -1 is nobody, who has no ranks.

    `module` is which of the group's `MODULES` it is, `[RUNS]` or one number. Returns, alike, the rank, where B begins
    in the owner's stream, the first column of the bridge and the scale; and the owner's page table and largest rank.
    """
    record = records + tl.maximum(owner, 0) * RECORD
    own = record + 4 + module * 4
    rank = tl.where(owner >= 0, tl.load(own), 0)
    scale = tl.where(rank > 0, tl.load(own + 3).to(tl.float32, bitcast=True), 0.0)
    before, most = rank * 0, 0
    for other in tl.static_range(MODULES):
        its = tl.load(record + 4 + other * 4)
        before += tl.where(module > other, room_of(its), 0)
        most = tl.maximum(most, tl.where(owner >= 0, its, 0))
    table = page_table + tl.load(record + 2).to(tl.int64) * table_stride
    return rank, tl.load(own + 2), before, scale, table, most


@triton.jit
def first_b_of(
    own,
    start,
    limit,
    width,
    lora_pages,
    RUN: tl.constexpr,
    RUNWISE: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """What `share_of` reads first of the owner's matrices, `[RUNS, RANKS, RUN]`; its arguments are those of that.

    No earlier kernel of a step writes it, so it may be asked for before they have ended. Without `EARLY` it is not, and
    what this returns stands for nothing.
    """
    if not EARLY:
        return tl.zeros((start.shape[0], RANKS, RUN), lora_pages.dtype.element_ty)
    return _b_of(0, own, start, limit, width, lora_pages, RUN, RUNWISE, PAGE, RANKS)


@triton.jit
def share_of(
    b,
    own,
    row,
    start,
    limit,
    width,
    bridge,
    lora_pages,
    RUN: tl.constexpr,
    RUNWISE: tl.constexpr,
    PIECES: tl.constexpr,
    BRIDGE: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """`scale * bridge[row] @ B` of the row's owner, `[RUNS, RUN]` float32; zeros if that is none.

    `b` is of `first_b_of`, and `own` of `owned`. A run's module has `width` columns, of which the run begins at its
    `start`, `[RUNS]`, and `limit` of its columns count. Without `EARLY`, who has nothing to add is done at once; with
    it, nobody waits for the rank before the rest is asked for.
    """
    parts = bridge + row.to(tl.int64) * (PIECES * BRIDGE)
    share = tl.zeros((start.shape[0], RUN), tl.float32)
    if EARLY:
        share = _product(b, parts, own, start, limit, width, lora_pages, RUN, RUNWISE, PIECES, BRIDGE, PAGE, RANKS)
    elif own[5] > 0:
        b = _b_of(0, own, start, limit, width, lora_pages, RUN, RUNWISE, PAGE, RANKS)
        share = _product(b, parts, own, start, limit, width, lora_pages, RUN, RUNWISE, PIECES, BRIDGE, PAGE, RANKS)
    return share


@triton.jit
def _product(
    b,
    parts,
    own,
    start,
    limit,
    width,
    lora_pages,
    RUN: tl.constexpr,
    RUNWISE: tl.constexpr,
    PIECES: tl.constexpr,
    BRIDGE: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
):
    """A row of the bridge times matrices of which `b` are the first ranks, scaled, `[RUNS, RUN]`."""
    rank, _, before, scale, _, most = own
    parts += before[:, None]
    ranks = tl.arange(0, RANKS)[None, :]
    part = _part_of_row(parts, ranks, rank[:, None], lora_pages.dtype.element_ty, PIECES, BRIDGE)
    share = tl.sum(part[:, :, None] * b.to(tl.float32), 1)
    for block in tl.range(RANKS, most, RANKS, num_stages=1):
        more = _b_of(block, own, start, limit, width, lora_pages, RUN, RUNWISE, PAGE, RANKS)
        part = _part_of_row(parts, block + ranks, rank[:, None], lora_pages.dtype.element_ty, PIECES, BRIDGE)
        share += tl.sum(part[:, :, None] * more.to(tl.float32), 1)
    return share * scale[:, None]


@triton.jit
def _part_of_row(parts, r, rank, dtype: tl.constexpr, PIECES: tl.constexpr, BRIDGE: tl.constexpr):
    return part_of(parts + r, r < room_of(rank), r < rank, dtype, PIECES, BRIDGE).to(tl.float32)


@triton.jit
def sum_of(given, share, scale):
    """What was given and a scaled share, in float32."""
    return tl.fma(share, tl.full(share.shape, scale, tl.float32), given.to(tl.float32))


@triton.jit
def part_of(at, there, is_rank, dtype: tl.constexpr, PIECES: tl.constexpr, BRIDGE: tl.constexpr):
    """Ranks of the bridge, of which the first piece is `at`: its pieces added, first to last, and rounded.

    `there` is the module's room, which is read as a whole; past its ranks it may hold anything, and counts as zeros.
    """
    part = tl.load(at, mask=there, other=0.0)
    for piece in tl.static_range(1, PIECES):
        part += tl.load(at + piece * BRIDGE, mask=there, other=0.0)
    return tl.where(is_rank, part, 0.0).to(dtype)


@triton.jit
def _b_of(
    block,
    own,
    start,
    limit,
    width,
    lora_pages,
    RUN: tl.constexpr,
    RUNWISE: tl.constexpr,
    PAGE: tl.constexpr,
    RANKS: tl.constexpr,
):
    """Rows of transposed B from rank `block` on, `[RUNS, RANKS, RUN]`; zeros from the rank on.

    In this order of dimensions Triton 3.6 gives a thread all ranks of its columns, if a warp has 256 columns: nothing
    is then exchanged to add them up. Triton 3.9 spreads the warps of a norm over ranks, and spills registers.
    """
    rank, place, _, _, table, _ = own
    rank, place = rank[:, None], place[:, None]
    r = block + tl.arange(0, RANKS)[None, :]
    n = tl.arange(0, RUN)
    if RUNWISE:
        # Whole runs are there or not: a mask that is one for all elements of a load leaves them one load.
        begins = (start < width)[:, None] & (r < rank)
        element = place + r * width + start[:, None]
        base = tl.multiple_of(page_of(table, element, begins, PAGE) + element % PAGE, [16, 16])
        at = base[:, :, None] + n[None, None, :]
        there = begins[:, :, None]
    else:
        column = start[:, None] + n[None, :]  # [RUNS, RUN]
        there = (r < rank)[:, :, None] & ((n < limit)[None, :] & (column < width))[:, None, :]
        element = (place + r * width)[:, :, None] + column[:, None, :]
        at = page_of(table, element, there, PAGE) + element % PAGE
    return tl.load(lora_pages + at, mask=there, other=0.0)
