"""What the sampling ops must equal: one row at a time, in float64, as the formulas read."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


def reference_penalties(
    logits: Tensor,
    prompt: Sequence[int],
    output: Sequence[int],
    repetition: float,
    presence: float,
    frequency: float,
) -> Tensor:
    """Penalised logits of one row, `[vocab]` float64."""
    penalised = logits.to(torch.float64).clone()
    for token in {*prompt, *output}:
        value = float(penalised[token])
        penalised[token] = value / repetition if value > 0 else value * repetition
    for token, count in Counter(output).items():
        penalised[token] -= frequency * count + presence
    return penalised


def reference_probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The distribution that one row's token is drawn from, `[vocab]` float64; greedy for temperature 0."""
    logits = logits.to(torch.float64)
    order = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))
    probabilities = torch.zeros_like(logits)
    if temperature == 0:
        probabilities[order[0]] = 1.0
        return probabilities
    if top_k > 0:
        order = order[:top_k]
    kept = torch.softmax(logits[order] / temperature, dim=0).tolist()
    before = 0.0
    for token, probability in zip(order, kept, strict=True):
        if (before < top_p or top_p == 1) and probability >= min_p * kept[0]:
            probabilities[token] = probability
        before += probability
    return probabilities / probabilities.sum()


def reference_draw(probabilities: Tensor, uniform: float) -> int:
    """The first token, by id, at which the sum of probabilities exceeds `uniform`."""
    total = 0.0
    for token, probability in enumerate(probabilities.tolist()):
        total += probability
        if total > uniform:
            return token
    return int(probabilities.nonzero()[-1])
