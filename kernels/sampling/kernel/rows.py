"""The last launch: one program a row takes the row's token from what the splits were found to hold."""

import triton
import triton.language as tl

from kernels.sampling.kernel.order import (
    is_searched,
    keys_of,
    load_scores,
    scaled_of,
    scaled_scores,
    share_of,
    weights_of,
)
from kernels.sampling.kernel.search import end_held, end_read, weighed_read


@triton.jit
def choose(
    chosen,  # [num_rows]
    peaks,
    tops,
    logits,
    penalised,
    copies,
    weighed,
    num_candidates,
    candidate_keys,
    candidate_tokens,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    uniforms,
    stride,
    vocab,
    num_splits,
    HAS_DRAWS: tl.constexpr,
    HAS_SEARCHES: tl.constexpr,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """The token of a row, -1 if its largest score is not finite."""
    row = tl.program_id(0)
    lanes = tl.arange(0, SPLITS)
    highest = tl.load(peaks + row * num_splits + lanes, lanes < num_splits, other=-float("inf"))
    peak, best = tl.max(highest, 0, return_indices=True, return_indices_tie_break_left=True)
    token = tl.load(tops + row * num_splits + best)
    if HAS_DRAWS:
        temperature = tl.load(temperatures + row)
        if temperature != 0.0:
            min_p = tl.load(min_ps + row)
            each = tl.load(weighed + row * num_splits + lanes, lanes < num_splits, other=0)
            is_drawn = temperature > 0.0
            if HAS_SEARCHES:  # noqa: SIM102 - this at compile time, the other at run time
                if is_searched(top_ks, top_ps, row, vocab):
                    is_drawn = temperature < 0.0
                    held = (num_candidates, candidate_keys, candidate_tokens, uniforms, row, vocab)
                    ends = (tl.load(top_ks + row), tl.load(top_ps + row), min_p, tl.sum(each, 0))
                    token, is_there = _token_held(*held, *ends, CANDIDATES)
                    if is_there == 0:
                        scores = (logits, stride, penalised, copies)
                        token = _token_read(
                            *scores, uniforms, row, vocab, peak, temperature, *ends, HAS_PENALTIES, SPLIT
                        )
            if is_drawn:
                share = share_of(uniforms, row, tl.sum(each, 0))
                is_passed = (tl.cumsum(each, 0) <= share) & (lanes < num_splits)
                split = tl.minimum(tl.sum(is_passed.to(tl.int32), 0), num_splits - 1)
                share -= tl.sum(tl.where(lanes < split, each, 0), 0)
                tokens = split * SPLIT + tl.arange(0, SPLIT)
                scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
                reached = tl.cumsum(weights_of(scaled_scores(scores, peak, temperature), min_p), 0)
                token = tl.minimum(split * SPLIT + tl.sum((reached <= share).to(tl.int32), 0), vocab - 1)
    token = tl.where(tl.abs(peak) < float("inf"), tl.minimum(tl.maximum(token, 0), vocab - 1), -1)
    tl.store(chosen + row, token.to(tl.int64))


@triton.jit
def _token_held(
    num_candidates,
    candidate_keys,
    candidate_tokens,
    uniforms,
    row,
    vocab,
    top_k,
    top_p,
    min_p,
    weight,
    CANDIDATES: tl.constexpr,
):
    """The token of a row whose kept tokens are all among the candidates, and whether they are."""
    lanes = tl.arange(0, CANDIDATES)
    number = tl.load(num_candidates + row)
    place = row.to(tl.int64) * CANDIDATES + lanes
    keys = tl.load(candidate_keys + place, lanes < number, other=0x7FFFFFFF)
    is_token = (lanes < number).to(tl.int32)
    scaled = scaled_of(keys)
    weights = tl.where(lanes < number, weights_of(scaled, 0.0), 0)
    bound, room, is_there = end_held(keys, weights, is_token, top_k, top_p, vocab, weight)
    is_tied = tl.where(keys == bound, is_token, 0)
    is_kept = (keys < bound) | (is_tied * (tl.cumsum(is_tied, 0) <= room).to(tl.int32) > 0)
    reached = tl.cumsum(tl.where(is_kept, tl.where(lanes < number, weights_of(scaled, min_p), 0), 0), 0)
    share = share_of(uniforms, row, tl.max(reached, 0))
    place = tl.sum((reached <= share).to(tl.int32), 0)
    return tl.load(
        candidate_tokens + row.to(tl.int64) * CANDIDATES + tl.minimum(place, tl.maximum(number - 1, 0))
    ), is_there


@triton.jit
def _token_read(
    logits,
    stride,
    penalised,
    copies,
    uniforms,
    row,
    vocab,
    peak,
    temperature,
    top_k,
    top_p,
    min_p,
    weight,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The token of a row that keeps more than the candidates: reads the row again and again."""
    scored = (logits, stride, penalised, copies, row, vocab, peak, temperature)
    bound, room = end_read(*scored, top_k, top_p, weight, HAS_PENALTIES, SPLIT)
    total, ties = weighed_read(*scored, bound, min_p, HAS_PENALTIES, SPLIT)
    total += tl.minimum(ties, room) * weights_of(scaled_of(bound), min_p)
    share = share_of(uniforms, row, total)
    before = tl.zeros((), tl.int64)
    token = tl.zeros((), tl.int32)
    for start in range(0, vocab, SPLIT):
        tokens = start + tl.arange(0, SPLIT)
        scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
        scaled = scaled_scores(scores, peak, temperature)
        keys = keys_of(scaled)
        is_tied = ((keys == bound) & (tokens < vocab)).to(tl.int64)
        is_kept = (keys < bound) | (is_tied * (tl.cumsum(is_tied, 0) <= room).to(tl.int64) > 0)
        room -= tl.sum(is_tied, 0)
        reached = before + tl.cumsum(tl.where(is_kept, weights_of(scaled, min_p), 0), 0)
        # Tokens up to the one that is sought are those whose sum does not exceed the share.
        token += tl.sum(((reached <= share) & (tokens < vocab)).to(tl.int32), 0)
        before = tl.max(reached, 0)
    return tl.minimum(token, vocab - 1)
