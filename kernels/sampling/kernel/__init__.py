"""Sampling in Triton: the vocabulary is cut in splits, so that a few rows fill the GPU as many do.

Every row's largest score is found first, which is all that a row without a temperature needs. Rows that are drawn are
weighed, split by split, and one program a row then finds the split, and in it the token, at which the sum of weights
exceeds its share. Rows with top-k or top-p are searched before that; see `search`. Nothing is sorted, nothing
is read by the host, and the rows' parameters may change under a CUDA graph as long as `Choices` has the same flags.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.sampling.batch import Choices, Penalties
from kernels.sampling.checks import check
from kernels.sampling.kernel.order import (
    chances_of,
    keys_of,
    peak_of,
    scaled_scores,
    scores_of,
    weight_of_key,
    weights_of,
)
from kernels.sampling.kernel.penalties import penalised_scores
from kernels.sampling.kernel.search import ALL_KEYS, NUM_PASSES, PLACES, is_searched, narrow, narrowed, target_of

_SPLIT = 4096  # tokens of a program
_CHUNK = 256  # tokens that a searching program holds against all places at once


@triton.jit
def _find_peaks(
    peaks,  # [num_rows, num_splits]
    places,  # [num_rows, num_splits]
    logits,
    penalised,
    penalised_rows,
    logits_stride,
    vocab,
    num_splits,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
):
    row = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    tokens = split * SPLIT + tl.arange(0, SPLIT)
    scores = scores_of(logits, logits_stride, penalised, penalised_rows, row, vocab, HAS_PENALTIES)
    peak, place = tl.max(
        tl.load(scores + tokens, tokens < vocab, other=-float("inf")),
        0,
        return_indices=True,
        return_indices_tie_break_left=True,
    )
    tl.store(peaks + row * num_splits + split, peak)
    tl.store(places + row * num_splits + split, split * SPLIT + place)


@triton.jit
def _weigh(
    weighed,  # [num_rows, num_splits], of the tokens before the last key
    tied,  # [num_rows, num_splits], tokens that have it
    bounds,  # [num_rows, 2], the last key, and how many of the tokens that have it are kept
    logits,
    penalised,
    penalised_rows,
    peaks,
    temperatures,
    min_ps,
    limits,
    sums,
    lows,
    bases,
    weighed_before,
    tied_before,
    bounds_before,
    logits_stride,
    vocab,
    num_splits,
    AFTER_TOP_K: tl.constexpr,
    AFTER_TOP_P: tl.constexpr,
    IS_LAST: tl.constexpr,
    HAS_BOUNDS: tl.constexpr,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row = tl.program_id(0) // num_splits
    split = tl.program_id(0) % num_splits
    temperature = tl.load(temperatures + row)
    if temperature == 0.0:
        return
    bound = tl.full((), ALL_KEYS, tl.int32)
    kept = tl.zeros((), tl.int64)
    if HAS_BOUNDS:
        bound = tl.load(bounds_before + row * 2).to(tl.int32)
        kept = tl.load(bounds_before + row * 2 + 1)
    if AFTER_TOP_K or AFTER_TOP_P:  # noqa: SIM102 - this at compile time, the other at run time
        if is_searched(limits, row, AFTER_TOP_P):
            target = target_of(limits, weighed_before, tied_before, bounds_before, row, num_splits, AFTER_TOP_P, SPLITS)
            low, base, _ = narrowed(sums, lows, bases, target, row, num_splits, 0, SPLITS)
            room = target - base
            if AFTER_TOP_P:
                weight = tl.maximum(weight_of_key(low), 1)
                room = (room + weight - 1) // weight
            if low == bound:
                room = tl.minimum(room, kept)
            bound = low
            kept = room
    if split == 0:
        tl.store(bounds + row * 2, bound.to(tl.int64))
        tl.store(bounds + row * 2 + 1, kept)
    tokens = split * SPLIT + tl.arange(0, SPLIT)
    scores = scores_of(logits, logits_stride, penalised, penalised_rows, row, vocab, HAS_PENALTIES)
    peak = peak_of(peaks, row, num_splits, SPLITS)
    scaled = scaled_scores(tl.load(scores + tokens, tokens < vocab, other=-float("inf")), peak, temperature)
    chances = chances_of(scaled)
    if IS_LAST:
        chances = tl.where(chances.to(tl.float64) >= tl.load(min_ps + row), chances, 0.0)
    keys = keys_of(scaled)
    tl.store(weighed + row * num_splits + split, tl.sum(tl.where(keys < bound, weights_of(chances), 0), 0))
    is_tied = (keys == bound) & (tokens < vocab)
    tl.store(tied + row * num_splits + split, tl.sum(is_tied.to(tl.int64), 0))


@triton.jit
def _choose(
    chosen,  # [num_rows]
    peaks,
    places,
    logits,
    penalised,
    penalised_rows,
    temperatures,
    min_ps,
    uniforms,
    weighed,
    tied,
    bounds,
    logits_stride,
    vocab,
    num_splits,
    HAS_DRAWS: tl.constexpr,
    HAS_PENALTIES: tl.constexpr,
    SPLIT: tl.constexpr,
    SPLITS: tl.constexpr,
):
    row = tl.program_id(0)
    lanes = tl.arange(0, SPLITS)
    inside = lanes < num_splits
    tops = tl.load(peaks + row * num_splits + lanes, inside, other=-float("inf"))
    peak, best = tl.max(tops, 0, return_indices=True, return_indices_tie_break_left=True)
    token = tl.load(places + row * num_splits + best).to(tl.int64)
    if HAS_DRAWS:
        temperature = tl.load(temperatures + row)
        if temperature != 0.0:
            min_p = tl.load(min_ps + row)
            bound = tl.load(bounds + row * 2).to(tl.int32)
            kept = tl.load(bounds + row * 2 + 1)
            tie = chances_of(-bound.to(tl.float32, bitcast=True))
            weight = weights_of(tl.where(tie.to(tl.float64) >= min_p, tie, 0.0))
            ties = tl.load(tied + row * num_splits + lanes, inside, other=0)
            room = tl.maximum(kept - (tl.cumsum(ties, 0) - ties), 0)  # for ties, when a split begins
            mass = tl.load(weighed + row * num_splits + lanes, inside, other=0) + tl.minimum(ties, room) * weight
            total = tl.sum(mass, 0)
            share = (tl.load(uniforms + row) * total.to(tl.float64)).to(tl.int64)
            share = tl.maximum(tl.minimum(share, total - 1), 0)
            passed = tl.cumsum(mass, 0) <= share
            split = tl.minimum(tl.sum((passed & inside).to(tl.int32), 0), num_splits - 1)
            share -= tl.sum(tl.where(lanes < split, mass, 0), 0)
            room = tl.sum(tl.where(lanes == split, room, 0), 0)

            tokens = split * SPLIT + tl.arange(0, SPLIT)
            scores = scores_of(logits, logits_stride, penalised, penalised_rows, row, vocab, HAS_PENALTIES)
            loaded = tl.load(scores + tokens, tokens < vocab, other=-float("inf"))
            scaled = scaled_scores(loaded, peak, temperature)
            chances = chances_of(scaled)
            chances = tl.where(chances.to(tl.float64) >= min_p, chances, 0.0)
            keys = keys_of(scaled)
            is_tied = (keys == bound).to(tl.int64)
            is_kept = (keys < bound) | (is_tied * (tl.cumsum(is_tied, 0) <= room).to(tl.int64) > 0)
            reached = tl.cumsum(tl.where(is_kept, weights_of(chances), 0), 0)
            place = tl.sum((reached <= share).to(tl.int32), 0)
            token = tl.minimum(split * SPLIT + place, vocab - 1).to(tl.int64)
    tl.store(chosen + row, token)


def sample(logits: Tensor, choices: Choices, uniforms: Tensor | None, penalties: Penalties | None = None) -> Tensor:
    """As `kernels.sampling.sample`."""
    check(logits, choices, uniforms, penalties)
    num_rows = logits.shape[0]
    chosen = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        penalised, copies = (logits, chosen) if penalties is None else penalised_scores(logits, penalties)
        _Sampling(logits, penalised, copies, choices, has_penalties=penalties is not None).choose(chosen, uniforms)
    return chosen


class _Sampling:
    """The launches of one batch, and what they tell each other."""

    def __init__(
        self, logits: Tensor, penalised: Tensor, copies: Tensor, choices: Choices, *, has_penalties: bool
    ) -> None:
        self._num_rows, self._vocab = logits.shape
        split = min(_SPLIT, triton.next_power_of_2(self._vocab))
        self._num_splits = triton.cdiv(self._vocab, split)
        self._grid = (self._num_rows * self._num_splits,)
        self._device = logits.device
        self._logits = logits
        self._scores = (logits, penalised, copies)
        self._choices = choices
        self._sizes: dict[str, Any] = {"HAS_PENALTIES": has_penalties, "SPLIT": split}
        self._splits = triton.next_power_of_2(self._num_splits)
        self._peaks = self._table(torch.float32)
        self._places = self._table(torch.int32)

    def choose(self, chosen: Tensor, uniforms: Tensor | None) -> None:
        """Writes every row's token."""
        _find_peaks[self._grid](
            self._peaks,
            self._places,
            *self._scores,
            self._logits.stride(0),
            self._vocab,
            self._num_splits,
            **self._sizes,
        )
        temperature = self._choices.temperature
        weighed = (self._peaks, self._peaks, self._peaks) if uniforms is None else self._weighed()
        _choose[(self._num_rows,)](
            chosen,
            self._peaks,
            self._places,
            *self._scores,
            temperature,
            self._choices.min_p,
            temperature if uniforms is None else uniforms,
            *weighed,
            self._logits.stride(0),
            self._vocab,
            self._num_splits,
            HAS_DRAWS=uniforms is not None,
            SPLITS=self._splits,
            enable_fp_fusion=False,
            **self._sizes,
        )

    def _weighed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights, ties and bounds of what is kept."""
        choices = self._choices
        weighed = None
        found = None
        if choices.has_top_k:
            found = self._searched(choices.top_k, None)
        if choices.has_top_p:
            weighed = self._weigh(weighed, choices.top_k, found, is_top_p=False, is_last=False)
            found = self._searched(choices.top_p, weighed)
            return self._weigh(weighed, choices.top_p, found, is_top_p=True, is_last=True)
        return self._weigh(weighed, choices.top_k, found, is_top_p=False, is_last=True)

    def _searched(self, limits: Tensor, weighed: tuple[Tensor, Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """The sums of the last pass, and the bounds it began with."""
        sums = torch.empty((2, self._num_rows, self._num_splits, PLACES.value), dtype=torch.int64, device=self._device)
        lows = torch.empty((2, self._num_rows), dtype=torch.int32, device=self._device)
        bases = torch.empty((2, self._num_rows), dtype=torch.int64, device=self._device)
        for step in range(NUM_PASSES):
            narrow[self._grid](
                sums,
                lows,
                bases,
                *self._scores,
                self._peaks,
                self._choices.temperature,
                limits,
                *(weighed or (sums, sums, sums)),
                self._logits.stride(0),
                self._vocab,
                self._num_splits,
                self._num_rows,
                step % 2,
                SHIFT=4 * (NUM_PASSES - 1 - step),
                IS_FIRST=step == 0,
                IS_TOP_P=weighed is not None,
                CHUNK=min(_CHUNK, self._sizes["SPLIT"]),
                SPLITS=self._splits,
                enable_fp_fusion=False,
                **self._sizes,
            )
        last = (NUM_PASSES - 1) % 2
        return sums[last], lows[last], bases[last]

    def _weigh(
        self,
        before: tuple[Tensor, Tensor, Tensor] | None,
        limits: Tensor,
        found: tuple[Tensor, Tensor, Tensor] | None,
        *,
        is_top_p: bool,
        is_last: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weighed, tied = self._table(torch.int64), self._table(torch.int64)
        bounds = torch.empty((self._num_rows, 2), dtype=torch.int64, device=self._device)
        _weigh[self._grid](
            weighed,
            tied,
            bounds,
            *self._scores,
            self._peaks,
            self._choices.temperature,
            self._choices.min_p,
            limits,
            *(found or (weighed, weighed, weighed)),
            *(before or (weighed, weighed, bounds)),
            self._logits.stride(0),
            self._vocab,
            self._num_splits,
            AFTER_TOP_K=found is not None and not is_top_p,
            AFTER_TOP_P=found is not None and is_top_p,
            IS_LAST=is_last,
            HAS_BOUNDS=before is not None,
            SPLITS=self._splits,
            enable_fp_fusion=False,
            **self._sizes,
        )
        return weighed, tied, bounds

    def _table(self, dtype: torch.dtype) -> Tensor:
        return torch.empty((self._num_rows, self._num_splits), dtype=dtype, device=self._device)
