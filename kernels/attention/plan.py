"""What attention gathers and masks in a step, worked out from the batch's tables once for all layers.

A page holds keys, then values, so that `[num_pages, page_elements]` seen as `[2 * num_pages, page_elements / 2]` has a
block of keys in row `2 * page` and of values in the row after.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kernels.attention.batch import AttentionBatch

# Tokens gathered at once, over all sequences of a group. Its keys and values then stay in a core's cache between the
# gather and the products, and the scratch is bounded: with 4 KV heads of 32 in float32, 512 to 2048 are within 5 % of
# each other on a Xeon with 2 MiB of L2, and 4096 takes 1.6 times as long.
GROUP_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Sequences of one row each and of similar length; rows `[start, stop)` of `Plan.decode_rows`."""

    start: int
    stop: int
    key_blocks: Tensor  # [n * num_blocks]
    value_blocks: Tensor  # [n * num_blocks]
    unwritten: Tensor | None  # [any], gathered tokens, of n * num_blocks * block_size, that no sequence has
    mask: Tensor  # [n, 1, 1, num_blocks * block_size], 0 or -inf


@dataclass(frozen=True, slots=True)
class Chunk:
    """A sequence of several rows, `[start, stop)`, and the last `num_keys` of its tokens."""

    start: int
    stop: int
    key_blocks: Tensor  # [num_blocks]
    value_blocks: Tensor  # [num_blocks]
    skipped: int  # tokens of the first block that come before
    num_keys: int
    mask: Tensor | None  # [stop - start, num_keys] bool; None if the rows are all the tokens and see all before them


@dataclass(frozen=True, slots=True)
class Plan:
    """All sequences of a step."""

    decode_rows: Tensor  # [num_decodes], rows by falling context
    decodes: tuple[DecodeGroup, ...]
    chunks: tuple[Chunk, ...]


def plan_of(batch: AttentionBatch, block_size: int, window: int | None, dtype: torch.dtype) -> Plan:
    """The plan for a batch, made on first use. Reads the tables on the host."""
    key = (block_size, window, dtype)
    plan = batch.derived.get(key)
    if plan is None:
        plan = batch.derived[key] = _make_plan(batch, block_size, window, dtype)
    return plan


def _make_plan(batch: AttentionBatch, block_size: int, window: int | None, dtype: torch.dtype) -> Plan:
    starts: list[int] = batch.query_start.tolist()
    lens: list[int] = batch.context_lens.tolist()
    counts = [stop - start for start, stop in pairwise(starts)]

    def first_block(context: int) -> int:
        return 0 if window is None else max(0, context - window) // block_size

    spans = {
        seq: -(-lens[seq] // block_size) - first_block(lens[seq]) for seq, count in enumerate(counts) if count == 1
    }
    decodes = sorted(spans, key=lambda seq: -spans[seq])
    chunks = tuple(
        _chunk(batch.block_table[seq], starts[seq], starts[seq + 1], lens[seq], block_size, window)
        for seq, count in enumerate(counts)
        if count > 1
    )
    rows = torch.tensor([starts[seq] for seq in decodes], dtype=torch.int64, device=batch.block_table.device)
    groups = _decode_groups(batch, decodes, [spans[seq] for seq in decodes], block_size, window, dtype)
    return Plan(rows, groups, chunks)


def _decode_groups(
    batch: AttentionBatch, seqs: list[int], spans: list[int], block_size: int, window: int | None, dtype: torch.dtype
) -> tuple[DecodeGroup, ...]:
    if not seqs:
        return ()
    device = batch.block_table.device
    order = torch.tensor(seqs, dtype=torch.int64, device=device)
    context = batch.context_lens.index_select(0, order).long().unsqueeze(1)  # [num_decodes, 1]
    first = torch.zeros_like(context) if window is None else (context - window).clamp_(min=0) // block_size
    columns = first + torch.arange(spans[0], device=device)
    table = batch.block_table.index_select(0, order).long()
    # Past a sequence's end any page will do, as its tokens are overwritten; -1 would not be one.
    blocks = table.gather(1, columns.clamp(max=table.shape[1] - 1)).clamp_(min=0) * 2
    position = first * block_size + torch.arange(spans[0] * block_size, device=device)
    written = position < context
    visible = written if window is None else written & (position >= context - window)
    masks = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))

    groups = []
    for start, stop in _similar(spans, block_size):
        width = spans[start]
        key_blocks = blocks[start:stop, :width].flatten()
        unwritten = (~written[start:stop, : width * block_size]).flatten().nonzero().squeeze(1)
        groups.append(
            DecodeGroup(
                start,
                stop,
                key_blocks,
                key_blocks + 1,
                unwritten if unwritten.shape[0] else None,
                masks[start:stop, None, None, : width * block_size],
            )
        )
    return tuple(groups)


def _similar(spans: list[int], block_size: int) -> list[tuple[int, int]]:
    """Cuts falling `spans` in groups that are bounded, and in which none is less than half of the first."""
    cuts = [0]
    for index, span in enumerate(spans):
        first = cuts[-1]
        too_many = (index + 1 - first) * spans[first] * block_size > GROUP_TOKENS
        if index > first and (too_many or 2 * span < spans[first]):
            cuts.append(index)
    return list(zip(cuts, [*cuts[1:], len(spans)], strict=True))


def _chunk(table: Tensor, start: int, stop: int, context: int, block_size: int, window: int | None) -> Chunk:
    num_rows = stop - start
    first_key = 0 if window is None else max(0, context - num_rows + 1 - window)
    first_block = first_key // block_size
    key_blocks = table[first_block : -(-context // block_size)].long() * 2
    mask = None
    if num_rows < context or (window is not None and window < context):
        query = torch.arange(context - num_rows, context, device=table.device).unsqueeze(1)
        key = torch.arange(first_key, context, device=table.device)
        mask = key <= query if window is None else (key <= query) & (key > query - window)
    skipped = first_key - first_block * block_size
    return Chunk(start, stop, key_blocks, key_blocks + 1, skipped, context - first_key, mask)
