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
    ordered, token_ids = torch.sort(logits, dim=-1, descending=True, stable=True)
    vocab = logits.shape[-1]
    rank = torch.arange(vocab, device=logits.device)
    keep = rank < torch.where(top_k > 0, top_k, vocab)[:, None]
    probabilities = ordered.masked_fill(~keep, -torch.inf).softmax(dim=-1)
    before = probabilities.to(torch.float64).cumsum(dim=-1) - probabilities
    keep &= (before < top_p[:, None]) | (top_p >= 1)[:, None]  # a rounded sum may reach 1 before the last token
    keep &= probabilities >= min_p[:, None] * probabilities[:, :1]
    keep[:, 0] = True
    return logits.masked_fill(~torch.zeros_like(keep).scatter_(1, token_ids, keep), -torch.inf)
