"""How a shrink finds and reads its matrices: the A of a group's modules taken as one, `[sum of ranks, in]`."""

import triton
import triton.language as tl

from kernels.lora.kernel.tiling import page_of


@triton.jit
def rank_rows(record, r, MODULES: tl.constexpr, IN: tl.constexpr):
    """First elements of rank rows of a group, counted over its modules."""
    rank = tl.load(record + 4)
    element = tl.load(record + 5) + r * IN
    if MODULES > 1:
        element = tl.where(r >= rank, tl.load(record + 9) + (r - rank) * IN, element)
        rank += tl.load(record + 8)
    if MODULES > 2:
        element = tl.where(r >= rank, tl.load(record + 13) + (r - rank) * IN, element)
    return element


@triton.jit
def a_of(
    pages,
    table,
    rank_row,
    halves,
    start,
    is_rank,
    IN: tl.constexpr,
    PAGE: tl.constexpr,
    ROWWISE: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Spans that begin at `start`, `[spans]`, of rank rows that begin at `rank_row` in the stream, `[ranks]`.

    `halves` is where the rows' pages are, of `halves_of`, which holds if a row is no longer than a page.
    """
    k = tl.arange(0, SPAN)
    element = start[:, None] + rank_row[None, :]  # [spans, ranks]
    if ROWWISE:
        # Whole spans are there or not: a mask that is one for all elements of a load leaves them one load.
        there = is_rank[None, :] & (start < IN)[:, None]
        if IN <= PAGE:
            head, left, tail = halves
            base = tl.where(start[:, None] < left[None, :], head[None, :], tail[None, :]) + start[:, None]
            base = tl.multiple_of(base, [16, 16])
        else:
            base = tl.multiple_of(page_of(table, element, there, PAGE) + element % PAGE, [16, 16])
        return tl.load(pages + base[:, :, None] + k[None, None, :], mask=there[:, :, None], other=0.0)
    there = is_rank[None, :, None] & (start[:, None, None] + k[None, None, :] < IN)
    each = element[:, :, None] + k[None, None, :]
    return tl.load(pages + page_of(table, each, there, PAGE) + each % PAGE, mask=there, other=0.0)
