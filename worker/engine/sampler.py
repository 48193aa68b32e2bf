"""From logits to the next token of every sequence."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kernels.sampling import Choices, Penalties, sample
from worker.engine.noise import uniforms
from worker.engine.sequence import Sequence
from worker.engine.staging import HostCopy, joined, to_device
from worker.types import PositionLogprobs, SamplingParams

NO_TOKEN = -1  # the token of a row whose logits are no distribution

# Between them they launch every kernel that sampling has.
WAYS_TO_SAMPLE = [
    SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    for temperature, top_k, top_p in ((0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.5))
    for penalty in (1.0, 2.0)
]


@dataclass(frozen=True)
class SampledTokens:
    """One token a row, `NO_TOKEN` for one whose logits are not finite. Asking what the host knows waits for the device.

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
    """Log-probabilities on their way: of some rows the chosen tokens' and the largest, as many as each asked for."""

    counts: dict[int, int]
    chosen: HostCopy  # [num_rows, 1]
    top_values: HostCopy  # [num_rows, max(counts)]
    top_ids: HostCopy

    def by_row(self, token_ids: list[int]) -> dict[int, PositionLogprobs]:
        found: dict[int, PositionLogprobs] = {}
        top_values, top_ids = self.top_values.values(), self.top_ids.values()
        for (row, count), (chosen,), values, ids in zip(
            self.counts.items(), self.chosen.values(), top_values, top_ids, strict=True
        ):
            ranked = sorted(zip(ids, values, strict=True), key=lambda pair: (-pair[1], pair[0]))
            found[row] = PositionLogprobs(token_ids[row], chosen, tuple(ranked[:count]))
        return found


@dataclass(frozen=True, slots=True)
class _Penalised:
    """The rows with penalties, `[num_rows]` int64, and those rows' parameters, `[num_rows]` float32."""

    sequences: list[Sequence]
    rows: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor


@dataclass(frozen=True, slots=True)
class _Asked:
    """The rows whose log-probabilities are wanted, `[num_rows]` int64, and by row how many of the largest."""

    rows: Tensor
    counts: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Table:
    """What the parameters of a list of sequences come to."""

    sequences: list[Sequence]
    choices: Choices
    seeds: np.ndarray[tuple[int], np.dtype[np.int64]]
    penalised: _Penalised | None
    asked: _Asked | None


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
            logits: `[num_sequences, vocab]` of a floating type; left as they are.
            sequences: Whose logits they are, in row order.
        """
        table = self._table
        if table is None or table.sequences != sequences:
            table = self._table = _tabulate(sequences, self._device)
        penalties = None if table.penalised is None else _penalties(table.penalised, logits)
        noise = None
        if table.choices.has_draws:
            positions = np.array([s.num_output for s in sequences], dtype=np.int64)
            (noise,) = to_device([uniforms(table.seeds, positions)], logits.device)
        tokens = sample(logits, table.choices, noise, penalties)
        logprobs = None if table.asked is None else _logprobs(logits, tokens, table.asked)
        return SampledTokens(tokens, penalties is not None, HostCopy(tokens), logprobs)


def _penalties(penalised: _Penalised, logits: Tensor) -> Penalties:
    """The penalties of a step: which tokens they fall on."""
    sequences = penalised.sequences
    prompt = np.array([s.num_prompt for s in sequences])
    length = np.array([s.num_tokens for s in sequences])
    row = np.repeat(np.arange(len(sequences)), length)
    position = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    seen = row * logits.shape[-1] + joined((s.token_ids for s in sequences), np.int64)
    output = seen[position >= prompt[row]]
    seen_there, output_there = to_device([seen, output], logits.device)
    return Penalties(
        penalised.rows, penalised.repetition, penalised.presence, penalised.frequency, seen_there, output_there
    )


def _logprobs(logits: Tensor, tokens: Tensor, asked: _Asked) -> _Logprobs:
    """Of the model's own distribution: before penalties, temperature and truncation."""
    logprobs = logits[asked.rows].float().log_softmax(dim=-1)
    chosen = logprobs.gather(1, tokens[asked.rows][:, None].clamp(min=0))
    top = logprobs.topk(min(max(asked.counts.values()), logits.shape[-1]), dim=-1)
    return _Logprobs(asked.counts, HostCopy(chosen), HostCopy(top.values), HostCopy(top.indices))


def _tabulate(sequences: list[Sequence], device: torch.device) -> _Table:
    rows = [row for row, s in enumerate(sequences) if _has_penalty(s.sampling)]
    counts = {row: s.request.logprob_count for row, s in enumerate(sequences) if s.request.logprob_count is not None}
    return _Table(
        sequences=list(sequences),
        choices=_choices([s.sampling for s in sequences], device),
        seeds=np.array([s.sampling.seed for s in sequences], dtype=np.int64),
        penalised=_penalised(sequences, rows, device) if rows else None,
        asked=_Asked(to_device([np.array(list(counts))], device)[0], counts) if counts else None,
    )


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0


def _is_truncated(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0


def _penalised(sequences: list[Sequence], rows: list[int], device: torch.device) -> _Penalised:
    chosen = [sequences[row] for row in rows]
    values = np.array(
        [(p.repetition_penalty, p.presence_penalty, p.frequency_penalty) for p in (s.sampling for s in chosen)],
        dtype=np.float32,
    )
    return _Penalised(chosen, *to_device([np.array(rows), *np.ascontiguousarray(values.T)], device))


def _choices(params: list[SamplingParams], device: torch.device) -> Choices:
    drawn = [row for row, p in enumerate(params) if not p.is_greedy]
    temperature, top_k, top_p, min_p, whole, truncated = to_device(
        [
            np.array([p.temperature for p in params], dtype=np.float32),
            np.array([p.top_k for p in params], dtype=np.int64),
            np.array([p.top_p for p in params], dtype=np.float64),
            np.array([p.min_p for p in params], dtype=np.float64),
            np.array([row for row in drawn if not _is_truncated(params[row])], dtype=np.int64),
            np.array([row for row in drawn if _is_truncated(params[row])], dtype=np.int64),
        ],
        device,
    )
    has_top_k = any(params[row].top_k > 0 for row in drawn)
    has_top_p = any(params[row].top_p < 1.0 for row in drawn)
    return Choices(temperature, top_k, top_p, min_p, whole, truncated, has_top_k=has_top_k, has_top_p=has_top_p)
