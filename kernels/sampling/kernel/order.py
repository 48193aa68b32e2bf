"""The order and the weights of tokens, as all sampling kernels compute them.

With M a row's largest score and x = (score - M) / temperature, a token's *key* is the bit pattern of |x|, an integer
that grows as x falls, and its *weight* is exp(x) in steps of 2**-44. Sums of weights are integers, and so the same in
whatever order they are taken.
"""

import triton
import triton.language as tl

WEIGHT_ONE = tl.constexpr(float(2**44))
ALL_KEYS = tl.constexpr(0x7FFFFFFF)  # above every key
PLACES = tl.constexpr(64)
_FIRST_PLACE = tl.constexpr((127 - 6) << 2)  # of |x| up to 2**-6


@triton.jit
def load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES: tl.constexpr):
    """Scores of a row's tokens: of the logits, or of the copy that bears the row's penalties."""
    place = logits + row.to(tl.int64) * stride + tokens
    if HAS_PENALTIES:
        copy = tl.load(copies + row)
        if copy >= 0:
            scores = tl.load(penalised + copy * vocab + tokens, tokens < vocab, other=-float("inf"))
        else:
            scores = tl.load(place, tokens < vocab, other=-float("inf")).to(tl.float32)
    else:
        scores = tl.load(place, tokens < vocab, other=-float("inf")).to(tl.float32)
    return scores


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
    return scaled.to(tl.int32, bitcast=True) & ALL_KEYS


@triton.jit
def scaled_of(keys):
    """What the keys were made of."""
    return -keys.to(tl.float32, bitcast=True)


@triton.jit
def places_of(keys):
    """Where keys stand among `PLACES` steps, four for each doubling of |x|."""
    return tl.minimum(tl.maximum((keys >> 21) - _FIRST_PLACE, 0), PLACES - 1)


@triton.jit
def chances_of(scaled, min_p):
    """Probabilities relative to the first token's; 0 below `min_p`."""
    chances = tl.where(scaled > -64.0, tl.exp(tl.maximum(scaled, -64.0)), 0.0)
    return tl.where(chances.to(tl.float64) >= min_p, chances, 0.0)


@triton.jit
def weights_of(scaled, min_p):
    """Integer weights; 0 for probabilities below `min_p` times the first token's."""
    return (chances_of(scaled, min_p).to(tl.float64) * WEIGHT_ONE + 0.5).to(tl.int64)


@triton.jit
def is_searched(top_ks, top_ps, row, vocab):
    """Whether top-k or top-p drops tokens of the row."""
    top_k = tl.load(top_ks + row)
    return ((top_k > 0) & (top_k < vocab)) | (tl.load(top_ps + row) < 1.0)


@triton.jit
def share_of(uniforms, row, total):
    """The sum of weights that the row's token is the first to exceed."""
    share = (tl.load(uniforms + row) * total.to(tl.float64)).to(tl.int64)
    return tl.maximum(tl.minimum(share, total - 1), 0)
