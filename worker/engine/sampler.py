"""From logits to the next token of every sequence."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kernels.sampling import apply_penalties, draw, scale, truncate
from worker.engine.noise import uniforms
from worker.engine.sequence import Sequence
from worker.engine.staging import HostCopy, joined, to_device
from worker.types import PositionLogprobs, SamplingParams

_MAX_SCORE = torch.finfo(torch.float32).max / 2  # so that the difference of two is finite, too


@dataclass(frozen=True)
class SampledTokens:
    """One token a row. Asking for what the host knows of them waits for the device.

    Attributes:
        tokens: `[num_rows]` int64 on the model's device; what the next step is fed.
        shape_next: Whether the rows' next logits depend on these tokens' ids in the host's memory: their penalties do.
    """

    tokens: Tensor
    shape_next: bool
    _arriving: HostCopy
    _logprobs: "_Logprobs | None" = None

    @cached_property
    def token_ids(self) -> list[int]:
        """The tokens."""
        return self._arriving.values()

    @cached_property
    def logprobs(self) -> dict[int, PositionLogprobs]:
        """The log-probabilities of the rows that asked for them, by row."""
        return {} if self._logprobs is None else self._logprobs.by_row(self.token_ids)


@dataclass(frozen=True, slots=True)
class _Logprobs:
    """Log-probabilities of `rows` on their way: the chosen tokens' and the largest, of which each row has `counts`."""

    rows: list[int]
    counts: list[int]
    chosen: HostCopy  # [num_rows, 1]
    top_values: HostCopy  # [num_rows, max(counts)]
    top_ids: HostCopy

    def by_row(self, token_ids: list[int]) -> dict[int, PositionLogprobs]:
        found: dict[int, PositionLogprobs] = {}
        top_values, top_ids = self.top_values.values(), self.top_ids.values()
        for row, count, (chosen,), values, ids in zip(
            self.rows, self.counts, self.chosen.values(), top_values, top_ids, strict=True
        ):
            ranked = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))
            found[row] = PositionLogprobs(token_ids[row], chosen, tuple(ranked[:count]))
        return found


@dataclass(frozen=True, slots=True)
class _Penalties:
    """The rows with penalties, `[num_rows]` int64, and those rows' parameters, `[num_rows]` float32."""

    sequences: list[Sequence]
    rows: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor


@dataclass(frozen=True, slots=True)
class _Draws:
    """Rows that are drawn, `[num_rows]` int64, their parameters, `[num_rows]`, and whether any token is dropped."""

    sequences: list[Sequence]
    seeds: np.ndarray[tuple[int], np.dtype[np.int64]]
    rows: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class _Table:
    """What the parameters of a list of sequences come to."""

    sequences: list[Sequence]
    penalties: _Penalties | None
    draws: tuple[_Draws, ...]
    logprob_rows: list[int]


class Sampler:
    """Chooses tokens; its only state is what it derived from the last list of sequences.

    A row's choice depends on its own logits, parameters, seed and output position, and on no other row: a request
    that is preempted, or goes on at another worker, draws the same numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._table: _Table | None = None

    def sample(self, logits: Tensor, sequences: list[Sequence]) -> SampledTokens:
        """The next token of each sequence.

        Args:
            logits: `[num_sequences, vocab]` float32; left as they are.
            sequences: Whose logits they are, in row order.
        """
        table = self._table
        if table is None or table.sequences != sequences:
            table = self._table = _tabulate(sequences, self._device)
        scores = logits if table.penalties is None else _penalised(logits, table.penalties)
        tokens = scores.argmax(dim=-1)
        for draws in table.draws:
            tokens[draws.rows] = _drawn(scores, draws)
        logprobs = _logprobs(logits, tokens, table) if table.logprob_rows else None
        return SampledTokens(tokens, table.penalties is not None, HostCopy(tokens), logprobs)


def _penalised(logits: Tensor, penalties: _Penalties) -> Tensor:
    """A copy of `logits` in which the rows with penalties bear them."""
    vocab = logits.shape[-1]
    sequences = penalties.sequences
    prompt = np.array([s.num_prompt for s in sequences])
    length = np.array([s.num_tokens for s in sequences])
    row = np.repeat(np.arange(len(sequences)), length)
    position = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    seen = row * vocab + joined((s.token_ids for s in sequences), np.int64)
    output = seen[position >= prompt[row]]
    seen_on_device, output_on_device = to_device([seen, output], logits.device)
    scores = logits.clone()
    penalised = apply_penalties(
        logits[penalties.rows],
        seen_on_device,
        output_on_device,
        penalties.repetition,
        penalties.presence,
        penalties.frequency,
    )
    # A tiny repetition penalty takes a logit to infinity, and differences of infinities are no numbers.
    scores[penalties.rows] = penalised.clamp_(-_MAX_SCORE, _MAX_SCORE)
    return scores


def _drawn(scores: Tensor, draws: _Draws) -> Tensor:
    positions = np.array([s.num_output for s in draws.sequences], dtype=np.int64)
    (noise,) = to_device([uniforms(draws.seeds, positions)], scores.device)
    scaled = scale(scores[draws.rows], draws.temperature)
    if draws.is_truncated:
        scaled = truncate(scaled, draws.top_k, draws.top_p, draws.min_p)
    return draw(scaled, noise)


def _logprobs(logits: Tensor, tokens: Tensor, table: _Table) -> _Logprobs:
    """Of the model's own distribution: before penalties, temperature and truncation."""
    rows = table.logprob_rows
    logprobs = logits[rows].log_softmax(dim=-1)
    counts = [min(table.sequences[row].request.logprob_count or 0, logits.shape[-1]) for row in rows]
    chosen = logprobs.gather(1, tokens[rows][:, None])
    top = logprobs.topk(max(counts), dim=-1)
    return _Logprobs(rows, counts, HostCopy(chosen), HostCopy(top.values), HostCopy(top.indices))


def _tabulate(sequences: list[Sequence], device: torch.device) -> _Table:
    penalised = [row for row, s in enumerate(sequences) if _has_penalty(s.sampling)]
    drawn = [row for row, s in enumerate(sequences) if not s.sampling.is_greedy]
    # Sorting the vocabulary costs more than all else, so rows that keep every token do without.
    whole = [row for row in drawn if not _is_truncated(sequences[row].sampling)]
    truncated = [row for row in drawn if _is_truncated(sequences[row].sampling)]
    return _Table(
        sequences=list(sequences),
        penalties=_penalties(sequences, penalised, device) if penalised else None,
        draws=tuple(_draws(sequences, rows, device) for rows in (whole, truncated) if rows),
        logprob_rows=[row for row, s in enumerate(sequences) if s.request.logprob_count is not None],
    )


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def _is_truncated(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _penalties(sequences: list[Sequence], rows: list[int], device: torch.device) -> _Penalties:
    chosen = [sequences[row] for row in rows]
    values = np.array(
        [(p.repetition_penalty, p.presence_penalty, p.frequency_penalty) for p in (s.sampling for s in chosen)],
        dtype=np.float32,
    )
    return _Penalties(chosen, *to_device([np.array(rows), *np.ascontiguousarray(values.T)], device))


def _draws(sequences: list[Sequence], rows: list[int], device: torch.device) -> _Draws:
    chosen = [sequences[row] for row in rows]
    params = [s.sampling for s in chosen]
    indices, temperature, top_k, top_p, min_p = to_device(
        [
            np.array(rows),
            np.array([p.temperature for p in params], dtype=np.float32),
            np.array([p.top_k for p in params]),
            np.array([p.top_p for p in params]),
            np.array([p.min_p for p in params]),
        ],
        device,
    )
    seeds = np.array([p.seed for p in params], dtype=np.int64)
    return _Draws(chosen, seeds, indices, temperature, top_k, top_p, min_p, is_truncated=_is_truncated(params[0]))
