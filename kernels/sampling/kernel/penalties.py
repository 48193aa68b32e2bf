"""Penalties in Triton: tokens are counted into a table of the penalised rows, of which copies then bear them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch
from kernels.sampling.batch import Penalties
from kernels.sampling.penalties import MAX_SCORE

_BLOCK = 1024
_SEEN = tl.constexpr(1 << 30)  # a bit above every count


@triton.jit(do_not_specialize=["num_seen", "num_output", "num_places"])
def _count(counts, seen, output, num_seen, num_output, num_places, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(seen + index, index < num_seen, other=-1)
    tl.atomic_or(counts + place, _SEEN, (place >= 0) & (place < num_places))
    place = tl.load(output + index, index < num_output, other=-1)
    tl.atomic_add(counts + place, 1, (place >= 0) & (place < num_places))


@triton.jit
def _penalise(
    scores,
    counts,
    logits,
    rows,
    repetitions,
    presences,
    frequencies,
    logits_stride,
    vocab,
    num_blocks,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = (tl.program_id(0) // num_blocks).to(tl.int64)
    tokens = (tl.program_id(0) % num_blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < vocab
    row = tl.load(rows + index)
    score = tl.load(logits + row * logits_stride + tokens, inside, other=0.0).to(tl.float32)
    noted = tl.load(counts + index * vocab + tokens, inside, other=0)
    count = (noted & (_SEEN - 1)).to(tl.float32)
    repetition = tl.load(repetitions + index) + tl.zeros_like(score)
    repeated = tl.where(score > 0, tl.div_rn(score, repetition), score * repetition)
    score = tl.where(noted != 0, repeated, score)
    score = score - tl.load(frequencies + index) * count
    score = score - tl.where(count > 0, tl.load(presences + index), 0.0)
    score = tl.maximum(score, -LIMIT, propagate_nan=tl.PropagateNan.ALL)
    score = tl.minimum(score, LIMIT, propagate_nan=tl.PropagateNan.ALL)
    tl.store(scores + index * vocab + tokens, score, inside)


def penalised_scores(logits: Tensor, penalties: Penalties) -> tuple[Tensor, Tensor]:
    """The scores of the penalised rows, `[num_penalised, vocab]`, and which of these each row has, -1 for none."""
    num_rows, vocab = logits.shape
    rows, device = penalties.rows, logits.device
    counts = torch.zeros((rows.shape[0], vocab), dtype=torch.int32, device=device)
    scores = torch.empty(counts.shape, dtype=torch.float32, device=device)
    copies = torch.full((num_rows,), -1, dtype=torch.int64, device=device)
    copies[rows] = torch.arange(rows.shape[0], device=device)
    num_noted = max(penalties.seen.shape[0], penalties.output.shape[0])
    if num_noted:
        launch(
            _count,
            (triton.cdiv(num_noted, _BLOCK),),
            counts,
            penalties.seen,
            penalties.output,
            penalties.seen.shape[0],
            penalties.output.shape[0],
            counts.numel(),
            BLOCK=_BLOCK,
        )
    num_blocks = triton.cdiv(vocab, _BLOCK)
    launch(
        _penalise,
        (rows.shape[0] * num_blocks,),
        scores,
        counts,
        logits,
        rows,
        penalties.repetition,
        penalties.presence,
        penalties.frequency,
        logits.stride(0),
        vocab,
        num_blocks,
        LIMIT=MAX_SCORE,
        BLOCK=_BLOCK,
        enable_fp_fusion=False,
    )
    return scores, copies
