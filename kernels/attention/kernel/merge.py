"""How a decode is split, and the kernel that adds up what the splits leave."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from kernels.device import num_processors
from kernels.launch import launch

BLOCK_TOKENS = 64
# Splits of all KV heads of one sequence: they keep a GPU of 132 multiprocessors, two programs on each, busy alone.
SEQUENCE_SPLITS = 256
BLOCK_SPLITS = 16  # merged at once; the same for all batches, as the order of a sum follows it


@dataclass(frozen=True)
class Splits:
    """How the tokens that a row sees are cut, and where the sums of the parts are left.

    Attributes:
        min_tokens: of a split, but for what even splits of whole tiles leave to the last.
        max_splits: of one sequence and KV head, however long.
        held: splits of the longest sequence that the tables can hold.
        partial: `[num_seqs, num_heads, held, head_dim]` float32; sums of values by weights of base `highest`.
        stats: `[num_seqs, num_heads, held, 2]` float32; the highest score, and the sum of weights.
    """

    min_tokens: int
    max_splits: int
    held: int
    partial: Tensor
    stats: Tensor

    @classmethod
    def of(
        cls,
        query: Tensor,
        batch: AttentionBatch,
        num_kv_heads: int,
        block_size: int,
        window: int | None,
        min_tokens: int,
    ) -> "Splits":
        """Buffers for a batch."""
        num_seqs, max_blocks = batch.block_table.shape
        _, num_heads, head_dim = query.shape
        max_splits = max(1, SEQUENCE_SPLITS // num_kv_heads)
        max_tokens = max_blocks * block_size
        if window is not None:
            max_tokens = min(max_tokens, window + BLOCK_TOKENS)
        held = max(1, min(max_splits, max_tokens // min_tokens))
        return cls(
            min_tokens,
            max_splits,
            held,
            query.new_empty((num_seqs, num_heads, held, head_dim), dtype=torch.float32),
            query.new_empty((num_seqs, num_heads, held, 2), dtype=torch.float32),
        )


def merge(output: Tensor, splits: Splits, counts: Tensor, batch: AttentionBatch, *, chained: bool) -> None:
    """Writes the rows of `output` that have several splits; the others are there.

    Args:
        output: `[num_rows, num_heads, head_dim]`.
        splits: What was left.
        counts: `[num_seqs]` int32; splits of each sequence, 0 where there is nothing to decode.
        batch: The sequences.
        chained: Whether to begin while the kernel that leaves the splits ends, on GPUs that can.
    """
    if splits.held == 1:
        return
    num_seqs, num_heads, _, head_dim = splits.partial.shape
    launch(
        _merge,
        (min(num_seqs * num_heads, _most_programs(output.device)),),
        output,
        splits.partial,
        splits.stats,
        counts,
        batch.query_start,
        num_seqs,
        output.stride(0),
        splits.held,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        HEAD_PAD=triton.next_power_of_2(head_dim),
        BLOCK_SPLITS=BLOCK_SPLITS,
        BLOCK_SEQS=max(128, triton.next_power_of_2(num_seqs)),
        CHAINED=chained,
        launch_pdl=chained,
        num_warps=1,  # so that a sum over splits stays in a thread
    )


def _most_programs(device: torch.device) -> int:
    """So few that they wait for the splits all at once: mostly no sequence is split, and they have nothing to do."""
    return 2 if device.type == "cpu" else 8 * num_processors(device)


@triton.jit(do_not_specialize=["num_seqs", "held_splits"])
def _merge(
    output,
    partial,
    stats,
    counts,
    query_start,
    num_seqs,
    output_stride,
    held_splits,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_SEQS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Heads of rows, each from all its splits, in order."""
    if CHAINED:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    seqs = tl.arange(0, BLOCK_SEQS)
    is_split = (tl.load(counts + seqs, mask=seqs < num_seqs, other=0) > 1).to(tl.int32)
    num_merged = tl.sum(is_split, 0)
    # Sequences that are split, up to each: where there is none, that takes no time.
    until = tl.cumsum(is_split, 0) if num_merged > 0 else is_split
    for task in range(tl.program_id(0), num_merged * NUM_HEADS, tl.num_programs(0)):
        seq = tl.sum((until <= task // NUM_HEADS).to(tl.int32), 0)
        head = task % NUM_HEADS
        num_splits = tl.load(counts + seq)
        row = tl.load(query_start + seq).to(tl.int64)
        dims = tl.arange(0, HEAD_PAD)
        first_slot = (seq.to(tl.int64) * NUM_HEADS + head) * held_splits
        highest = float("-inf")
        total = 0.0
        attended = tl.zeros((HEAD_PAD,), tl.float32)
        for start in range(0, num_splits, BLOCK_SPLITS):
            split = start + tl.arange(0, BLOCK_SPLITS)
            slots = first_slot + split
            held = split < num_splits
            peaks = tl.load(stats + slots * 2, held, other=float("-inf"))
            totals = tl.load(stats + slots * 2 + 1, held, other=0.0)
            parts = tl.load(
                partial + slots[:, None] * HEAD_DIM + dims[None, :],
                held[:, None] & (dims < HEAD_DIM)[None, :],
                other=0.0,
            )  # [BLOCK_SPLITS, HEAD_PAD]
            higher = tl.maximum(highest, tl.max(peaks, 0))
            weights = tl.exp2(peaks - higher)
            fade = tl.exp2(highest - higher)
            total = total * fade + tl.sum(totals * weights, 0)
            attended = attended * fade + tl.sum(parts * weights[:, None], 0)
            highest = higher
        tl.store(
            output + row * output_stride + head * HEAD_DIM + dims,
            (attended / total).to(output.dtype.element_ty),
            dims < HEAD_DIM,
        )
