"""How MBGMM is cut into tiles: what host and device agree on, and how a tile finds its adapter and its pages.

The inputs of a row are multiplied in *spans* of consecutive elements, each in one chain of tensor core products; the
sums of four spans are added, first to last, to a *round*, rounds to a *piece*, of which there are eight at most, and
the pieces to what the row's expand begins with. Adapters of few rows (MBGMV) and of many (MBGMM) keep to this order, so
a row's bits depend neither on the regime nor on how the work is split.
"""

from dataclasses import dataclass
from enum import Enum

import torch
import triton
import triton.language as tl

from kernels.lora.directory import LoraDirectory

FEW_ROWS = 8  # of a tile of MBGMV, half of what a tensor core takes; an expand's are for adapters with no more
SPANS = 4  # of a round, one for each warp
MAX_SPAN = 256
MAX_PIECES = 8  # each is work for a program of its own, and whoever adds them up reads all
FEW_RANKS = 16  # of a tile of MBGMV's shrink: the least a tensor core takes
MANY_ROWS, MANY_RANKS = 32, 32  # of a tile of MBGMM's shrink; as many rows of one of its expand
LARGE_SHRINK_ROWS = 64  # of a tile of a shrink in large batches, where what comes from the L2 is what takes time
EXPAND_COLUMNS = 128  # of a tile of MBGMM's expand
EXPAND_RUNS = 4  # of a tile of few rows of an expand, one for each warp
LARGE_ROWS = 256  # of a tile of MBGMM's expand where MBGMV has none: 16 or 32 at a time
ADDED_ROWS = 64  # of an adapter whose shares a linear layer adds, at least: three have rows of a tile there, at most
_ROOM = tl.constexpr(4)  # columns of the bridge: a module begins at a multiple, where wide loads may begin
SPLIT_ROWS = 2048  # with more rows tiles fill the GPU without splitting the inputs; at least FEW_ROWS
# Rows of a batch, and the most of an adapter that MBGMV shrinks in one of no more, unless it does so apart (by times on
# an H200): of a few dozen rows MBGMM's tiles would be partly empty, and in small batches too few to fill the GPU.
SHRUNK_FEW = {64: 64, 512: 32, SPLIT_ROWS: FEW_ROWS}


class Beside(Enum):
    """What a linear layer of more than 64 rows does for adapters beside its product, in one launch."""

    NOTHING = "nothing"
    SHRINKS = "shrinks"  # all rows, in MBGMV's tiles
    ADDS = "adds"  # what adapters of many rows have; only others are left to an expand


@dataclass(frozen=True, slots=True)
class Tiling:
    """The sizes of tiles, from what the host knows.

    Attributes:
        span: Elements of a span; in one page for each rank row if `is_rowwise`.
        is_rowwise: Whether page borders cut no span.
        is_split: Whether a tile reads one piece of the input, not all.
        has_few: Whether adapters of few rows are MBGMV's; if not, all are MBGMM's, whose expand then has large tiles.
        has_many: Whether MBGMM could expand any adapter.
        shrink_few: The most rows of an adapter that MBGMV shrinks.
        live: Adapters that a batch could have, a power of two; in few sizes, as each is compiled.
        expand_ranks: Ranks that an expand multiplies at a time, at most.
    """

    span: int
    is_rowwise: bool
    is_split: bool
    has_few: bool
    has_many: bool
    shrink_few: int
    live: int
    expand_ranks: int

    @classmethod
    def of(cls, num_rows: int, num_live: int, directory: LoraDirectory, *, beside: Beside = Beside.NOTHING) -> "Tiling":
        """The tiles for a batch; `beside` is what its linear layers do."""
        span = run_of(directory, MAX_SPAN)
        return cls(
            span=span,
            is_rowwise=directory.chunk_elements % span == 0,
            is_split=num_rows <= SPLIT_ROWS,
            has_few=num_rows <= SPLIT_ROWS or beside is Beside.ADDS,
            has_many=num_rows > FEW_ROWS,
            shrink_few=_shrunk_few(num_rows, beside),
            live=64 if num_live <= 64 else max(512, triton.next_power_of_2(num_live)),
            expand_ranks=max(16, min(64, triton.next_power_of_2(directory.max_rank))),
        )

    @property
    def few_columns(self) -> int:
        """Columns of one of the runs of MBGMV's expand: as many as registers and shared memory hold."""
        return 64 if self.expand_ranks > 32 else 128

    @property
    def shrink_rows(self) -> int:
        """Rows of a tile of MBGMM's shrink."""
        return MANY_ROWS if self.is_split else LARGE_SHRINK_ROWS

    @property
    def shrink_steps(self) -> int:
        """Steps in which such a tile takes a span: of shorter ones more are on their way."""
        return 1 if self.is_split or self.span < MAX_SPAN else 2

    @property
    def expand_rows(self) -> int:
        """Rows of a tile of MBGMM's expand."""
        return MANY_ROWS if self.has_few else LARGE_ROWS

    @property
    def expand_run(self) -> int:
        """Columns of one of its runs: of a tile of few rows each warp has its own."""
        return EXPAND_COLUMNS // EXPAND_RUNS if self.has_few else EXPAND_COLUMNS

    def num_rounds(self, in_features: int) -> int:
        """Rounds of a piece, but for the last piece of an input, which may have fewer."""
        all_rounds = -(-in_features // (SPANS * self.span))
        return -(-all_rounds // MAX_PIECES)

    def num_pieces(self, in_features: int) -> int:
        """Pieces of an input that different programs add up."""
        if not self.is_split:
            return 1
        return -(-in_features // (SPANS * self.span * self.num_rounds(in_features)))


def _shrunk_few(num_rows: int, beside: Beside) -> int:
    if beside is Beside.SHRINKS:
        return SPLIT_ROWS
    if beside is Beside.ADDS:
        return FEW_ROWS
    return next((few for most_rows, few in SHRUNK_FEW.items() if num_rows <= min(most_rows, SPLIT_ROWS)), 0)


def run_of(directory: LoraDirectory, most: int) -> int:
    """The longest run of elements, a power of two from 16 to `most`, that page borders do not cut, if there is one."""
    return max(16, min(most, directory.chunk_elements & -directory.chunk_elements))


def bridge_width(num_modules: int, max_rank: int) -> int:
    """Columns that a group has in the bridge, one module's after the other; in few sizes, as each is compiled."""
    step: int = _ROOM.value
    room = -(-max_rank // step) * step
    return max(1, -(-num_modules * room // 64)) * 64


def precision_of(dtype: torch.dtype) -> str | None:
    """How products of a dtype are taken: float32 without shortening its operands."""
    return "ieee" if dtype == torch.float32 else None


@triton.jit
def room_of(rank):
    """Columns of the bridge for a module's ranks: as many are written and read, so that a mask cuts no wide access."""
    return (rank + _ROOM - 1) // _ROOM * _ROOM


@triton.jit
def cost_of(rank, BY_RANK: tl.constexpr):
    """Of one tile of an expand: MBGMV's multiplies no more ranks than it has to. Tiles of MBGMM's count alike.

    Rows of outputs, and all else that does not depend on ranks, cost as much as 80 ranks (measured on an H200).
    """
    blocks = tl.where(rank <= 16, 1, tl.where(rank <= 32, 2, (rank + 63) // 64 * 4))
    return 5 + blocks if BY_RANK else 1


@triton.jit
def shares_of(program, step, few, many, many_cost):
    """A program's share of MBGMV's tiles and then MBGMM's: with some of each it would wait for a first tile twice.

    `few` is what MBGMV's cost, and each of the `many` costs `many_cost`. A tile that a border cuts is of the program in
    whose share it ends. Returns where in `few` the share begins and ends, and the tiles of `many`.
    """
    costs = few.to(tl.int64) + many.to(tl.int64) * many_cost
    place = (program * costs // step).to(tl.int32)
    end = ((program + 1) * costs // step).to(tl.int32)
    return (
        tl.minimum(place, few),
        tl.minimum(end, few),
        tl.maximum(place - few, 0) // many_cost,
        tl.maximum(end - few, 0) // many_cost,
    )


@triton.jit
def apart_share_of(program, part, num_programs, num_multiplying, rounds_meanwhile, num_tiles, ROUNDS: tl.constexpr):
    """The tiles of a shrink of one of a program's two parts, beside programs that multiply: all end at about one time.

    While one of the first `num_multiplying` programs multiplies, a part of another does `rounds_meanwhile`, of which a
    tile has `ROUNDS`. Returns the first tile of the share, and the first after it.
    """
    num_free = num_programs - num_multiplying
    num_left = tl.maximum(num_tiles * ROUNDS - 2 * num_free * rounds_meanwhile, 0)
    num_late = num_left * num_multiplying // (num_programs * ROUNDS)
    is_free = program >= num_multiplying
    begin = tl.where(is_free, 0, num_tiles - num_late)
    count = tl.where(is_free, num_tiles - num_late, num_late)
    share = 2 * tl.where(is_free, program - num_multiplying, program) + part
    num_shares = 2 * tl.where(is_free, num_free, num_multiplying)
    return begin + share * count // num_shares, begin + (share + 1) * count // num_shares


@triton.jit
def adapter_of(starts, tile):
    """The adapter that owns a tile: the last that starts no later."""
    return tl.sum((starts <= tile).to(tl.int32), 0) - 1


@triton.jit
def few_tile_of(local, record, PIECES: tl.constexpr, FEW: tl.constexpr, RANKS: tl.constexpr):
    """What a tile of MBGMV's shrink is, by its number among those of its adapter, whose `record` this is.

    Returns which piece of the inputs, which first column of the bridge and which first of the adapter's rows it has,
    and the adapter's columns.
    """
    room = room_of(tl.load(record + 3))  # the same, but now the compiler knows that it is a multiple
    num_blocks = (room + RANKS - 1) // RANKS
    block = local // PIECES
    return local % PIECES, block % num_blocks * RANKS, block // num_blocks * FEW, room


@triton.constexpr_function
def num_pages_of(length, page):
    """In how many pages runs of a length lie at most, two or three; 0 if they may lie in more."""
    return 2 if length <= page else 3 if length <= 2 * page else 0


@triton.jit
def places_of(page_table, element, length, mask, PAGE: tl.constexpr, NUM_PAGES: tl.constexpr):
    """Where runs, from `element` on in an adapter's stream, lie in the pool: in up to `NUM_PAGES` pages, two or three.

    Returns the place of the first element, how many elements its page still has, and what to add to the offset of an
    element of the second page, and of the third.
    """
    left = PAGE - element % PAGE
    head = page_of(page_table, element, mask, PAGE) + element % PAGE
    tail = page_of(page_table, element + length - 1, mask, PAGE) - left
    middle = tail
    if NUM_PAGES > 2:
        middle = page_of(page_table, element + tl.minimum(left, length - 1), mask, PAGE) - left
        tail -= PAGE
    return head, left, middle, tail


@triton.jit
def place_in(start, places, PAGE: tl.constexpr, NUM_PAGES: tl.constexpr):
    """Where what begins at each `start`, `[starts, 1]`, in each run of `places_of` lies, `[starts, runs]`."""
    head, left, middle, tail = places
    later = middle[None, :]
    if NUM_PAGES > 2:
        later = tl.where(start < (left + PAGE)[None, :], later, tail[None, :])
    return tl.where(start < left[None, :], head[None, :], later) + start


@triton.jit
def page_of(page_table, element, mask, PAGE: tl.constexpr):
    """Where in the pool the pages begin that hold elements of an adapter's stream."""
    return tl.load(page_table + element // PAGE, mask=mask, other=0).to(tl.int64) * PAGE
