"""Sampling in torch. Sorting the vocabulary costs more than all else, so rows that keep every token do without."""

from torch import Tensor

from kernels.sampling.batch import Choices, Penalties
from kernels.sampling.draw import draw
from kernels.sampling.penalties import penalised
from kernels.sampling.truncation import scale, truncate


def sample(logits: Tensor, choices: Choices, uniforms: Tensor | None, penalties: Penalties | None = None) -> Tensor:
    """As `kernels.sampling.sample`."""
    scores = logits.float() if penalties is None else penalised(logits.float(), penalties)
    best = scores.max(dim=-1)  # NaN if one of the row is
    tokens, is_no_distribution = best.indices, ~best.values.isfinite()
    if uniforms is None:
        return tokens.masked_fill_(is_no_distribution, -1)
    for rows in (choices.whole_rows, choices.truncated_rows):
        if rows.shape[0]:
            scaled = scale(scores.index_select(0, rows), choices.temperature.index_select(0, rows))
            if rows is choices.truncated_rows:
                limits = (choices.top_k, choices.top_p, choices.min_p)
                scaled = truncate(scaled, *(limit.index_select(0, rows) for limit in limits))
            tokens.index_copy_(0, rows, draw(scaled, uniforms.index_select(0, rows)))
    return tokens.masked_fill_(is_no_distribution, -1)
