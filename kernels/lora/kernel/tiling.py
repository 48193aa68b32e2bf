"""How MBGMM is cut into tiles: what host and device agree on, and how a tile finds its adapter and its pages.

An adapter with few rows is read once by tiles of a few rank rows (MBGMV), one with many by tiles of many rows (MBGMM).
Both add the products of a row in one order: sums of `SUB` consecutive products, four of those to a span, and the
spans one after the other. So a row's bits depend neither on the regime nor on how the work is split.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.lora.directory import LoraDirectory

FEW_ROWS = 8  # an adapter with no more is read by MBGMV
SUBS = 4  # sub-blocks of a span, one for each warp
FEW_RANKS = 16  # of a tile of MBGMV: the least a tensor core takes
EXPAND_ROWS = 32  # of a tile of MBGMM's expand
LINE_BYTES = 128  # of the caches
SPLIT_ROWS = 1024  # with more rows in the batch, tiles of many rows fill the GPU without splitting the inputs


@dataclass(frozen=True, slots=True)
class Tiling:
    """The sizes of tiles, from what the host knows.

    Attributes:
        sub: Elements of a sub-block; in one page for each rank row if `is_rowwise`.
        is_rowwise: Whether page borders cut no sub-block.
        rows: Rows of a tile of MBGMM's shrink.
        ranks: Rank rows of a tile of MBGMM's shrink.
        steps: Tiles of `EXPAND_ROWS` rows that MBGMM's expand takes one after the other.
        expand_ranks: Rank rows of a tile of MBGMM's expand.
        is_split: Whether a tile of MBGMM reads one span of the input, not all.
        has_many: Whether any adapter could have more than `FEW_ROWS` rows.
        live: Adapters that a batch could have, a power of two.
    """

    sub: int
    is_rowwise: bool
    rows: int
    ranks: int
    steps: int
    expand_ranks: int
    is_split: bool
    has_many: bool
    live: int

    @classmethod
    def of(cls, num_rows: int, num_live: int, directory: LoraDirectory) -> "Tiling":
        """The tiles for a batch."""
        chunk_elements = directory.chunk_elements
        sub = max(16, min(128, chunk_elements & -chunk_elements))
        is_split = num_rows <= SPLIT_ROWS
        return cls(
            sub=sub,
            is_rowwise=chunk_elements % sub == 0,
            rows=32 if is_split else 64,
            ranks=32 if is_split else 64,
            steps=1 if is_split else 8,
            expand_ranks=max(16, min(64, triton.next_power_of_2(directory.max_rank))),
            is_split=is_split,
            has_many=num_rows > FEW_ROWS,
            live=max(64, triton.next_power_of_2(num_live)),
        )

    def num_spans(self, in_features: int) -> int:
        """Spans of an input."""
        return -(-in_features // (SUBS * self.sub))

    @property
    def constants(self) -> dict[str, int | bool]:
        """What every kernel is compiled for, beside what it alone asks for."""
        return {
            "SUB": self.sub,
            "SUBS": SUBS,
            "FEW": FEW_ROWS,
            "FEW_RANKS": FEW_RANKS,
            "ROOM": self.live + 2,
            "LIVE": self.live,
        }


def bridge_width(num_modules: int, max_rank: int) -> int:
    """Columns that a group has in the bridge: room for its ranks, one module's after the other."""
    return max(1, -(-num_modules * max_rank // 64)) * 64


def precision_of(dtype: torch.dtype) -> str | None:
    """How products of a dtype are taken: float32 without shortening its operands."""
    return "ieee" if dtype == torch.float32 else None


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
def of_module(module, first, second, third, MODULES: tl.constexpr):
    """What belongs to a module."""
    chosen = first
    if MODULES > 1:
        chosen = tl.where(module == 1, second, chosen)
    if MODULES > 2:
        chosen = tl.where(module == 2, third, chosen)
    return chosen


@triton.jit
def prefetch(pointers, mask, spare):
    """Starts to bring what masked-in pointers point to into the L2 cache; the others stand for `spare`."""
    at = tl.where(mask, pointers.to(tl.int64), spare.to(tl.int64))
    tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], tl.int32, is_pure=False, pack=1)
