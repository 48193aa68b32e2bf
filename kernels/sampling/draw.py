"""One token from each row's distribution."""

import torch
from torch import Tensor


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse of the cumulative distribution in the order of token ids: the first token whose sum exceeds `u * total`.

    Args:
        logits: `[num_rows, vocab]` float32; -inf is never drawn.
        uniforms: `[num_rows]` float64, u, in [0, 1).

    Returns:
        `[num_rows]` int64.
    """
    cumulative = logits.softmax(dim=-1).to(torch.float64).cumsum(dim=-1)
    total = cumulative[:, -1]
    # u * total may round up to the total, which no sum exceeds.
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    return tokens.clamp_(max=logits.shape[-1] - 1)
