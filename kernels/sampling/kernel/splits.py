"""What every split of a row is read for: its largest score, how many tokens are how far below that, and its weight."""

import triton
import triton.language as tl

from kernels.sampling.kernel.order import (
    PLACES,
    is_searched,
    keys_of,
    load_scores,
    peak_of,
    places_of,
    scaled_scores,
    weights_of,
)


@triton.jit
def find_peaks(
    peaks,  # [num_rows, num_splits]
    tops,  # [num_rows, num_splits]
    logits,
    penalised,
    copies,
    stride,
    vocab,
    num_splits,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """The largest score of a split, infinite if one is NaN, and the first token that has it."""
    row = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    tokens = split * SPLIT + tl.arange(0, SPLIT)
    scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
    peak, place = tl.max(scores, 0, return_indices=True, return_indices_tie_break_left=True)
    # A maximum passes over NaN. An infinite peak tells the row's last launch that there is no distribution.
    peak = tl.where(tl.max((scores != scores).to(tl.int32), 0) > 0, float("inf"), peak)
    tl.store(peaks + row * num_splits + split, peak)
    tl.store(tops + row * num_splits + split, split * SPLIT + place)


@triton.jit
def count_places(
    counts,  # [num_rows, num_splits, PLACES]
    logits,
    penalised,
    copies,
    peaks,
    temperatures,
    top_ks,
    top_ps,
    stride,
    vocab,
    num_splits,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """How many tokens of a split are at each place. What is behind the vocabulary counts at the last."""
    row = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    temperature = tl.load(temperatures + row)
    if (temperature == 0.0) | (is_searched(top_ks, top_ps, row, vocab) == 0):
        return
    tokens = split * SPLIT + tl.arange(0, SPLIT)
    scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
    scaled = scaled_scores(scores, peak_of(peaks, row, num_splits, SPLITS), temperature)
    own = counts + (row * num_splits + split) * PLACES + tl.arange(0, PLACES)
    tl.store(own, tl.histogram(places_of(keys_of(scaled)), PLACES))


@triton.jit
def weigh(
    weighed,  # [num_rows, num_splits]
    num_candidates,  # [num_rows]
    candidate_keys,  # [num_rows, CANDIDATES]
    candidate_tokens,  # [num_rows, CANDIDATES]
    logits,
    penalised,
    copies,
    peaks,
    counts,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    stride,
    vocab,
    num_splits,
    HAS_SEARCHES: tl.constexpr,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
    CANDIDATES: tl.constexpr,
):
    """The weight of a split; and of rows that are searched its part of the candidates, in the order of ids.

    Candidates are the tokens at as many places, from the first, as there is room for all tokens of. Min-p is left to
    what comes after top-p.
    """
    row = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    temperature = tl.load(temperatures + row)
    if temperature == 0.0:
        return
    tokens = split * SPLIT + tl.arange(0, SPLIT)
    scores = load_scores(logits, stride, penalised, copies, row, tokens, vocab, HAS_PENALTIES)
    scaled = scaled_scores(scores, peak_of(peaks, row, num_splits, SPLITS), temperature)
    min_p = tl.load(min_ps + row)
    if HAS_SEARCHES:  # noqa: SIM102 - this at compile time, the other at run time
        if is_searched(top_ks, top_ps, row, vocab):
            min_p = tl.zeros((), tl.float64)
            splits = tl.arange(0, SPLITS)[:, None]
            places = tl.arange(0, PLACES)
            own = counts + (row * num_splits + splits) * PLACES + places[None, :]
            each = tl.load(own, splits < num_splits, other=0)  # [SPLITS, PLACES]
            reached = tl.cumsum(tl.sum(each, 0), 0)
            num_places = tl.sum((reached <= CANDIDATES).to(tl.int32), 0)
            number = tl.sum(tl.where(places < num_places, tl.sum(each, 0), 0), 0)
            if vocab <= CANDIDATES:
                num_places = tl.full((), PLACES, tl.int32)
                number = tl.zeros((), tl.int32) + vocab
            before = tl.sum(tl.where(places < num_places, tl.sum(tl.where(splits < split, each, 0), 0), 0), 0)
            keys = keys_of(scaled)
            is_candidate = ((places_of(keys) < num_places) & (tokens < vocab)).to(tl.int32)
            place = row.to(tl.int64) * CANDIDATES + before + tl.cumsum(is_candidate, 0) - 1
            tl.store(candidate_keys + place, keys, is_candidate > 0)
            tl.store(candidate_tokens + place, tokens, is_candidate > 0)
            if split == 0:
                tl.store(num_candidates + row, number)
    tl.store(weighed + row * num_splits + split, tl.sum(weights_of(scaled, min_p), 0))
