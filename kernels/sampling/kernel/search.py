"""Where top-k and top-p end, without sorting.

F(v) is the number of tokens with keys below v, or the sum of their weights. What a truncation keeps are the first
tokens of the order, up to the largest v with F(v) below a target: the number of tokens, or the share of the weight,
that was asked for. Of the tokens that have the key v itself it keeps the first few, by id. So an end is a key, its
*bound*, and *room*, the number of tokens with that key. Bisection finds the 31 bits of v.
"""

import triton
import triton.language as tl

from kernels.sampling.kernel.order import ALL_KEYS, keys_of, load_scores, scaled_of, scaled_scores, weights_of


@triton.jit
def top_p_target(top_p, weight):
    """What F stays below: the share p of the weight, and never nothing."""
    return tl.maximum(tl.ceil(top_p * weight.to(tl.float64)).to(tl.int64), 1)


@triton.jit
def narrowed(bound, room, low, gap):
    """The end after top-p, whose search found `low` and F(low) `gap` below its target, given the end before."""
    weight = tl.maximum(weights_of(scaled_of(low), 0.0), 1)
    own_room = (gap + weight - 1) // weight
    own_room = tl.where(low == bound, tl.minimum(own_room, room), own_room)
    return low, own_room


@triton.jit
def bisect_held(keys, measure, target):
    """The largest v with F(v) below the target, and F(v), of a tile of tokens."""
    low = tl.zeros((), tl.int32)
    base = tl.sum(measure * 0, 0)
    for step in range(31):
        v = low | (1 << (30 - step))
        total = tl.sum(tl.where(keys < v, measure, 0), 0)
        fits = total < target
        low = tl.where(fits, v, low)
        base = tl.where(fits, total, base)
    return low, base


@triton.jit
def end_held(keys, weights, is_token, top_k, top_p, vocab, weight):
    """The end of top-k and top-p among all tokens up to some key, if it is there; `weight` is that of all tokens."""
    bound = tl.full((), ALL_KEYS, tl.int32)
    room = tl.zeros((), tl.int64)
    is_there = tl.full((), 1, tl.int1)
    if (top_k > 0) & (top_k < vocab):
        is_there = tl.sum(is_token, 0) >= top_k
        low, base = bisect_held(keys, is_token, top_k.to(tl.int32))
        bound = low
        room = top_k - base
        ties = tl.sum(tl.where(keys == bound, is_token, 0), 0)
        weight = tl.sum(tl.where(keys < bound, weights, 0), 0)
        weight += tl.minimum(ties, room) * weights_of(scaled_of(bound), 0.0)
    if top_p < 1.0:
        target = top_p_target(top_p, weight)
        is_there = is_there & (tl.sum(weights, 0) >= target)
        low, base = bisect_held(keys, weights, target)
        bound, room = narrowed(bound, room, low, target - base)
    return bound, room, is_there


@triton.jit
def weighed_read(
    logits,
    stride,
    penalised,
    copies,
    row,
    vocab,
    peak,
    temperature,
    bound,
    min_p,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Of a whole row: the weight of the tokens with keys below a bound, and the number of those with that key."""
    weight = tl.zeros((), tl.int64)
    ties = tl.zeros((), tl.int64)
    for start in range(0, vocab, SPLIT):
        tokens = start + tl.arange(0, SPLIT)
        scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
        scaled = scaled_scores(scores, peak, temperature)
        keys = tl.where(tokens < vocab, keys_of(scaled), ALL_KEYS)
        weight += tl.sum(tl.where(keys < bound, weights_of(scaled, min_p), 0), 0)
        ties += tl.sum((keys == bound).to(tl.int64), 0)
    return weight, ties


@triton.jit
def _sums_below(
    logits,
    stride,
    penalised,
    copies,
    row,
    vocab,
    peak,
    temperature,
    low,
    step,
    is_top_p,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """F at one, two and three steps above `low`."""
    first = tl.zeros((), tl.int64)
    second = tl.zeros((), tl.int64)
    third = tl.zeros((), tl.int64)
    for start in range(0, vocab, SPLIT):
        tokens = start + tl.arange(0, SPLIT)
        scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
        scaled = scaled_scores(scores, peak, temperature)
        keys = tl.where(tokens < vocab, keys_of(scaled), ALL_KEYS)
        measure = tl.where(is_top_p, weights_of(scaled, 0.0), 1)
        first += tl.sum(tl.where(keys < low + step, measure, 0), 0)
        second += tl.sum(tl.where(keys < low + 2 * step, measure, 0), 0)
        third += tl.sum(tl.where(keys < low + 3 * step, measure, 0), 0)
    return first, second, third


@triton.jit
def end_read(
    logits,
    stride,
    penalised,
    copies,
    row,
    vocab,
    peak,
    temperature,
    top_k,
    top_p,
    weight,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The end of top-k and top-p, wherever it is: reads the row once for every two bits."""
    scores = (logits, stride, penalised, copies, row, vocab, peak, temperature)
    bound = tl.full((), ALL_KEYS, tl.int32)
    room = tl.zeros((), tl.int64)
    for turn in range(2):
        is_top_p = turn == 1
        target = tl.where(is_top_p, top_p_target(top_p, weight), top_k)
        if tl.where(is_top_p, top_p < 1.0, (top_k > 0) & (top_k < vocab)):
            low = tl.zeros((), tl.int32)
            base = tl.zeros((), tl.int64)
            for index in range(16):
                step = 1 << tl.maximum(29 - 2 * index, 0)  # the last of 31 bits has a pass of its own
                first, second, third = _sums_below(*scores, low, step, is_top_p, HAS_PENALTIES, SPLIT)
                base = tl.where(first < target, first, base)
                base = tl.where(second < target, second, base)
                base = tl.where(third < target, third, base)
                fits = (first < target).to(tl.int32) + (second < target).to(tl.int32) + (third < target).to(tl.int32)
                low += fits * step
            if is_top_p:
                bound, room = narrowed(bound, room, low, target - base)
            else:
                bound = low
                room = target - base
                weight, ties = weighed_read(*scores, bound, 0.0, HAS_PENALTIES, SPLIT)
                weight += tl.minimum(ties, room) * weights_of(scaled_of(bound), 0.0)
    return bound, room
