"""The search for the last token that is kept, without sorting.

F(v) is the number of tokens with keys below v, or the sum of their weights. What a truncation keeps are the first
tokens of the order, up to the largest v with F(v) below a target: the number of tokens, or the share of the weight,
that was asked for. Eight passes find the 31 bits of v, four at a time. A pass adds up, for each split of the
vocabulary, what F(v) is at sixteen places between the bounds that the pass before has left; the next pass adds up the
splits. A split in which nothing lies between the bounds is not read again.
"""

import triton
import triton.language as tl

from kernels.sampling.kernel.order import (
    chances_of,
    keys_of,
    peak_of,
    scaled_scores,
    scores_of,
    weight_of_key,
    weights_of,
)

NUM_PASSES = 8
PLACES = tl.constexpr(16)
ALL_KEYS = tl.constexpr(0x7FFFFFFF)


@triton.jit
def narrowed(sums, lows, bases, target, row, num_splits, SHIFT: tl.constexpr, SPLITS: tl.constexpr):
    """The bounds after a pass: which of its places is the last with F below the target, and F there."""
    low = tl.load(lows + row)
    base = tl.load(bases + row)
    splits = tl.arange(0, SPLITS)[:, None]
    places = tl.arange(0, PLACES)
    each = tl.load(sums + (row * num_splits + splits) * PLACES + places[None, :], splits < num_splits, other=0)
    total = tl.sum(each, 0)  # [PLACES], F at place + 1 over what it is at `low`
    last = (ALL_KEYS >> SHIFT) & (PLACES - 1)  # the first pass has fewer places
    is_below = (base + total < target) & (places < last)
    place = tl.sum(is_below.to(tl.int32), 0)
    gained = tl.sum(tl.where(places == place - 1, total, 0), 0)
    return low + (place << SHIFT), base + gained, place


@triton.jit
def target_of(limits, weighed, tied, bounds, row, num_splits, IS_TOP_P: tl.constexpr, SPLITS: tl.constexpr):
    """What F stays below: k, or the share p of the weight that top-k left."""
    if IS_TOP_P:
        lanes = tl.arange(0, SPLITS)
        inside = lanes < num_splits
        below = tl.sum(tl.load(weighed + row * num_splits + lanes, inside, other=0), 0)
        ties = tl.sum(tl.load(tied + row * num_splits + lanes, inside, other=0), 0)
        bound = tl.load(bounds + row * 2)
        ties = tl.minimum(ties, tl.load(bounds + row * 2 + 1))
        weight = below + ties * weight_of_key(bound.to(tl.int32))
        target = tl.ceil(tl.load(limits + row) * weight.to(tl.float64)).to(tl.int64)
    else:
        target = tl.load(limits + row)
    return tl.maximum(target, 1)


@triton.jit
def is_searched(limits, row, IS_TOP_P: tl.constexpr):
    """Whether the row has a top-k, or a top-p."""
    limit = tl.load(limits + row)
    return limit < 1.0 if IS_TOP_P else limit > 0


@triton.jit
def narrow(
    sums,  # [2, num_rows, num_splits, PLACES], of passes in turn
    lows,  # [2, num_rows]
    bases,  # [2, num_rows]
    logits,
    penalised,
    penalised_rows,
    peaks,
    temperatures,
    limits,
    weighed,
    tied,
    bounds,
    logits_stride,
    vocab,
    num_splits,
    num_rows,
    turn,
    SHIFT: tl.constexpr,
    IS_FIRST: tl.constexpr,
    IS_TOP_P: tl.constexpr,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """One pass over one split of a row."""
    row = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    temperature = tl.load(temperatures + row)
    if (temperature == 0.0) | (is_searched(limits, row, IS_TOP_P) == 0):
        return
    places = tl.arange(0, PLACES)
    before = (1 - turn) * num_rows
    after = turn * num_rows
    low = tl.zeros((), tl.int32)
    base = tl.zeros((), tl.int64)
    left = tl.full((), 1, tl.int64)
    if not IS_FIRST:
        target = target_of(limits, weighed, tied, bounds, row, num_splits, IS_TOP_P, SPLITS)
        own = sums + before * num_splits * PLACES
        low, base, place = narrowed(own, lows + before, bases + before, target, row, num_splits, SHIFT + 4, SPLITS)
        own += (row * num_splits + split) * PLACES
        left = tl.load(own + place)  # of this split, between the bounds
        if place > 0:
            left -= tl.load(own + place - 1)
    if split == 0:
        tl.store(lows + after + row, low)
        tl.store(bases + after + row, base)
    total = tl.zeros((PLACES, CHUNK), tl.int64)
    if left > 0:
        scores = scores_of(logits, logits_stride, penalised, penalised_rows, row, vocab, HAS_PENALTIES)
        peak = peak_of(peaks, row, num_splits, SPLITS)
        for start in range(split * SPLIT, tl.minimum(split * SPLIT + SPLIT, vocab), CHUNK):
            tokens = start + tl.arange(0, CHUNK)
            scaled = scaled_scores(tl.load(scores + tokens, tokens < vocab, other=-float("inf")), peak, temperature)
            above = keys_of(scaled) - low
            own_place = tl.where((above >= 0) & (tokens < vocab), above >> SHIFT, PLACES)
            if tl.min(own_place, 0) < PLACES:
                measure = weights_of(chances_of(scaled)) if IS_TOP_P else tl.full((CHUNK,), 1, tl.int64)
                total += tl.where(own_place[None, :] <= places[:, None], measure[None, :], 0)
    tl.store(sums + ((after + row) * num_splits + split) * PLACES + places, tl.sum(total, 1))
