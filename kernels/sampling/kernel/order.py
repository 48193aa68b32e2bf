"""The order and the weights of tokens, as all sampling kernels compute them.

With M a row's largest score and x = (score - M) / temperature, a token's *key* is the bit pattern of |x|, an integer
that grows as x falls, and its *weight* is exp(x) in steps of 2**-44. Sums of weights are integers, and so the same in
whatever order they are taken.
"""

import triton
import triton.language as tl

WEIGHT_ONE = tl.constexpr(float(2**44))
MAX_VOCAB = 2**18  # tokens of weight 1 whose sum is below 2**63


@triton.jit
def scores_of(logits, logits_stride, penalised, penalised_rows, row, vocab, HAS_PENALTIES: tl.constexpr):
    """Where the row's scores begin: among the logits, or in a copy that bears the row's penalties."""
    place = logits + row.to(tl.int64) * logits_stride
    if HAS_PENALTIES:
        copy = tl.load(penalised_rows + row)
        if copy >= 0:
            place = penalised + copy * vocab
    return place


@triton.jit
def peak_of(peaks, row, num_splits, SPLITS: tl.constexpr):
    """The row's largest score."""
    lanes = tl.arange(0, SPLITS)
    return tl.max(tl.load(peaks + row * num_splits + lanes, lanes < num_splits, other=-float("inf")), 0)


@triton.jit
def scaled_scores(scores, peak, temperature):
    """Scores over temperature, shifted so that the largest is 0."""
    return tl.div_rn(scores - peak, temperature + tl.zeros_like(scores))


@triton.jit
def keys_of(scaled):
    """Integers that grow as `scaled`, which is at most 0, falls."""
    return scaled.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def chances_of(scaled):
    """Probabilities relative to the first token's."""
    return tl.where(scaled > -64.0, tl.exp(tl.maximum(scaled, -64.0)), 0.0)


@triton.jit
def weights_of(chances):
    """Integer weights."""
    return (chances.to(tl.float64) * WEIGHT_ONE + 0.5).to(tl.int64)


@triton.jit
def weight_of_key(key):
    """The weight of the tokens with this key."""
    return weights_of(chances_of(-key.to(tl.float32, bitcast=True)))
