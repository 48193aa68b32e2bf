"""How MBGMM is cut into tiles: what host and device agree on, and how a tile finds its adapter and its pages.

An adapter with few rows is read once by tiles of a few rank rows (MBGMV), one with many by tiles of many rows (MBGMM).
Both add the products of a row in one order: sums of `SUB` consecutive products, four of those to a span, and the
spans one after the other. So a row's bits depend neither on the regime nor on how the work is split.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

FEW_ROWS = 8  # an adapter with no more is read by MBGMV
SUBS = 4  # sub-blocks of a span, one for each warp
_RANKS = 16  # of a tile of MBGMV: the least a tensor core takes
SPLIT_ROWS = 1024  # with more rows in the batch, tiles of many rows fill the GPU without splitting the inputs


@dataclass(frozen=True, slots=True)
class Tiling:
    """The sizes of tiles, from what the host knows.

    Attributes:
        sub: Elements of a sub-block; in one page for each rank row if `is_rowwise`.
        is_rowwise: Whether page borders cut no sub-block.
        rows: Rows of a tile of MBGMM.
        ranks: Rank rows of a tile of MBGMM.
        is_split: Whether a tile of MBGMM reads one span of the input, not all.
        has_many: Whether any adapter could have more than `FEW_ROWS` rows.
        live: Adapters that a batch could have, a power of two.
    """

    sub: int
    is_rowwise: bool
    rows: int
    ranks: int
    is_split: bool
    has_many: bool
    live: int

    @classmethod
    def of(cls, num_rows: int, num_live: int, chunk_elements: int) -> "Tiling":
        """The tiles for a batch."""
        sub = max(16, min(128, chunk_elements & -chunk_elements))
        is_split = num_rows <= SPLIT_ROWS
        return cls(
            sub=sub,
            is_rowwise=chunk_elements % sub == 0,
            rows=64 if is_split else 128,
            ranks=32 if is_split else 64,
            is_split=is_split,
            has_many=num_rows > FEW_ROWS,
            live=max(64, triton.next_power_of_2(num_live)),
        )

    @property
    def span(self) -> int:
        """Elements of a span of the input; also columns of a tile of MBGMV's expand."""
        return SUBS * self.sub

    def num_spans(self, in_features: int) -> int:
        """Slices of an input."""
        return -(-in_features // self.span)

    @property
    def constants(self) -> dict[str, int | bool]:
        """What every kernel is compiled for, beside what it alone asks for."""
        return {
            "SUB": self.sub,
            "SUBS": SUBS,
            "FEW": FEW_ROWS,
            "ROWS": self.rows,
            "RANKS": self.ranks,
            "FEW_RANKS": _RANKS,
            "LIVE": self.live,
        }


def padded_rank(max_rank: int) -> int:
    """Columns that a module has in the bridge."""
    return max(1, -(-max_rank // 64)) * 64


@triton.jit
def adapter_of(starts, tile):
    """The adapter that owns a tile: the last that starts no later."""
    return tl.sum((starts <= tile).to(tl.int32), 0) - 1


@triton.jit
def address_of(page_table, element, mask, PAGE: tl.constexpr):
    """Where elements of an adapter's stream are in the pool."""
    page = tl.load(page_table + element // PAGE, mask=mask, other=0).to(tl.int64)
    return page * PAGE + element % PAGE


@triton.jit
def blocks_of(records, MODULES: tl.constexpr, RANKS: tl.constexpr):
    """Blocks of `RANKS` rank rows of an adapter's first two modules, and of all."""
    first = (tl.load(records) + RANKS - 1) // RANKS
    second = 0
    third = 0
    if MODULES > 1:
        second = (tl.load(records + 4) + RANKS - 1) // RANKS
    if MODULES > 2:
        third = (tl.load(records + 8) + RANKS - 1) // RANKS
    return first, second, first + second + third


@triton.jit
def module_of(block, first, second, MODULES: tl.constexpr):
    """The module that a block belongs to, and its place there."""
    module = 0
    if MODULES > 1:
        module = (block >= first).to(tl.int32)
    if MODULES > 2:
        module += (block >= first + second).to(tl.int32)
    return module, block - (module > 0) * first - (module > 1) * second
