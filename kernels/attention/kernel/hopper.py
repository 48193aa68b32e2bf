"""Launches of the Hopper kernels: what they take, and with which tiles."""

import triton
from torch import Tensor
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels.attention.batch import AttentionBatch
from kernels.attention.kernel.hopper_decode import decode
from kernels.attention.kernel.hopper_prefill import prefill
from kernels.attention.kernel.merge import BLOCK_TOKENS, Splits, merge
from kernels.device import has_hopper_halves, is_aligned, num_processors
from kernels.gluon import SWIZZLED
from kernels.launch import launch

_SEEN = "tables are read"
LOG2_E = 1.4426950408889634
QUERY_LANES = 128  # of a tile of prefill, two warpgroups of 64
PREFILL_TOKENS, PREFILL_STAGES = 128, 2
DECODE_STAGES = 3
DECODE_PROGRAMS_PER_SM = 2  # as many as registers and shared memory hold
MIN_SPLIT_TOKENS = 512  # 384 make 400 decodes of 20 to 780 tokens 10 % slower on an H200, as half of them are split


def suits(query: Tensor, pages: Tensor, num_kv_heads: int, block_size: int) -> bool:
    """Whether the Hopper kernels take these: what a kernel computes with never depends on the batch."""
    return (
        has_hopper_halves(query)
        and query.shape[2] in (64, 128)
        and block_size in (16, 32, 64)
        and query.shape[1] // num_kv_heads <= 64
        and is_aligned(pages)
    )


def _describe(pages: Tensor, width: int, block_size: int) -> TensorDescriptor:
    """Pages as rows of one token's keys or values each, fetched a block and half a head at a time."""
    return TensorDescriptor(pages, [pages.numel() // width, width], [width, 1], [block_size, 64], SWIZZLED.value)


def attend_decodes(
    output: Tensor,
    query: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    *,
    num_kv_heads: int,
    block_size: int,
    scale: float,
    window: int | None,
) -> None:
    """As `kernels.attention.kernel.decode.attend_decodes`."""
    num_seqs = batch.block_table.shape[0]
    group, head_dim = query.shape[1] // num_kv_heads, query.shape[2]
    counts = batch.context_lens.new_empty(num_seqs)
    splits = Splits.of(query, batch, num_kv_heads, block_size, window, MIN_SPLIT_TOKENS)
    most_teams = DECODE_PROGRAMS_PER_SM * num_processors(query.device) // num_kv_heads
    launch(
        decode,
        (max(1, min(num_seqs * splits.held, most_teams)) * num_kv_heads,),
        output,
        query,
        _describe(pages, num_kv_heads * head_dim, block_size),
        batch.query_start,
        batch.context_lens,
        batch.block_table,
        splits.partial,
        splits.stats,
        counts,
        num_seqs,
        output.stride(0),
        query.stride(0),
        query.stride(1),
        batch.block_table.stride(0),
        batch.block_table.shape[1] * block_size,
        splits.held,
        scale * LOG2_E,
        window or 0,
        HAS_WINDOW=window is not None,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        BLOCK_TOKENS=BLOCK_TOKENS,
        MIN_SPLIT=splits.min_tokens,
        MAX_SPLITS=splits.max_splits,
        BLOCK_SEQS=max(128, triton.next_power_of_2(num_seqs)),
        STAGES=DECODE_STAGES * (128 // head_dim),
        num_warps=4,
        maxnreg=128,
        launch_pdl=_is_seen(batch),
    )
    merge(output, splits, counts, batch, chained=True)


def _is_seen(batch: AttentionBatch) -> bool:
    """Whether a layer has attended with these tables: its launch waited for what wrote them, so later ones need not."""
    is_seen = _SEEN in batch.derived
    batch.derived[_SEEN] = True
    return is_seen


def attend_chunks(
    output: Tensor,
    query: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    *,
    num_kv_heads: int,
    block_size: int,
    scale: float,
    window: int | None,
) -> None:
    """As `kernels.attention.kernel.prefill.attend_chunks`."""
    num_seqs = batch.block_table.shape[0]
    group, head_dim = query.shape[1] // num_kv_heads, query.shape[2]
    num_rows = query.shape[0]
    most = (num_rows // (QUERY_LANES // group) + min(num_seqs, num_rows // 2)) * num_kv_heads
    launch(
        prefill,
        (max(1, min(most, num_processors(query.device))),),
        output,
        query,
        _describe(pages, num_kv_heads * head_dim, block_size),
        batch.query_start,
        batch.context_lens,
        batch.block_table,
        num_seqs,
        output.stride(0),
        query.stride(0),
        query.stride(1),
        batch.block_table.stride(0),
        batch.block_table.shape[1] * block_size,
        scale * LOG2_E,
        window or 0,
        HAS_WINDOW=window is not None,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        BLOCK_TOKENS=PREFILL_TOKENS,
        BLOCK_SEQS=max(128, triton.next_power_of_2(num_seqs)),
        STAGES=PREFILL_STAGES,
        num_warps=4,
        maxnreg=168,
        launch_pdl=True,
    )
