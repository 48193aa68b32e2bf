"""Penalties on tokens that were seen before."""

import torch
from torch import Tensor

from kernels.sampling.batch import Penalties

MAX_SCORE = torch.finfo(torch.float32).max / 2  # so that the difference of two is finite, too


def penalised(logits: Tensor, penalties: Penalties) -> Tensor:
    """A copy of `logits` in which the rows with penalties bear them."""
    scores = logits.clone()
    borne = apply_penalties(
        logits[penalties.rows],
        penalties.seen,
        penalties.output,
        penalties.repetition,
        penalties.presence,
        penalties.frequency,
    )
    # A tiny repetition penalty takes a logit to infinity, and differences of infinities are no numbers.
    scores[penalties.rows] = borne.clamp_(-MAX_SCORE, MAX_SCORE)
    return scores


def apply_penalties(
    logits: Tensor,
    seen: Tensor,
    output: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
) -> Tensor:
    """Penalised logits: `l' = (l / r if l > 0 else l * r)` where seen, then `l' - f * count - p * (count > 0)`.

    `count` is how often the token stands in the row's output. The repetition penalty is that of CTRL
    (arXiv 1909.05858).

    Args:
        logits: `[num_rows, vocab]` float32; left as it is.
        seen: `[any]` int64; `row * vocab + token` of every token in prompt or output; repeats do not matter.
        output: `[any]` int64; `row * vocab + token` of every token in the output; repeats count.
        repetition: `[num_rows]` float32, r.
        presence: `[num_rows]` float32, p.
        frequency: `[num_rows]` float32, f.

    Returns:
        `[num_rows, vocab]` float32.
    """
    is_seen = torch.zeros(logits.numel(), dtype=torch.bool, device=logits.device)
    is_seen[seen] = True
    # Integer sums: the same whatever order a device adds them in.
    count = torch.zeros(logits.numel(), dtype=torch.int32, device=logits.device)
    count.scatter_add_(0, output, torch.ones_like(output, dtype=torch.int32))
    count = count.view_as(logits)
    repetition = repetition[:, None]
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    penalised = torch.where(is_seen.view_as(logits), repeated, logits)
    return penalised - frequency[:, None] * count - presence[:, None] * (count > 0)
