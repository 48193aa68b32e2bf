"""The engine: requests in, one step at a time, tokens out."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.adapters.residency import Load, Residency
from worker.engine.batch import BatchBuilder
from worker.engine.config import EngineConfig
from worker.engine.meter import Meter, Part
from worker.engine.refusals import check_request, no_distribution
from worker.engine.sampler import NO_TOKEN, WAYS_TO_SAMPLE, SampledTokens, Sampler
from worker.engine.scheduler import Plan, Scheduler
from worker.engine.sequence import Sequence, SequenceState
from worker.errors import WorkerError
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage
from worker.model.batch import ForwardBatch
from worker.types import (
    EngineRequest,
    FinishReason,
    HostedAdapter,
    PoolResidency,
    PositionLogprobs,
    RequestFailure,
    SequenceOutput,
    StepResult,
)

# Half of what a bus of 50 GB/s brings, as a step may be shorter than the one before it.
HIDDEN_BYTES_PER_S = 25e9


class Model(Protocol):
    """What the engine asks of a model."""

    def forward(self, batch: ForwardBatch, pages: Tensor) -> Tensor:
        """Logits, `[num_logit_rows, vocab]` of a floating type."""


class Loader(Protocol):
    """What the engine asks of the copies from host memory to the pool."""

    def perform(self, loads: Iterable[Load]) -> None:
        """Begin every copy."""

    def take_arrived(self) -> list[str]:
        """The adapters whose last copies were done since the last call."""

    def hold_step(self, needed: Callable[[], Collection[str]]) -> None:
        """Let the next forward pass begin after the copies of these adapters; asked for if any is on its way."""

    def finish(self, digest: str) -> None:
        """Wait until the adapter's host pages are read no more."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A step that was given to the device: tokens of `sampled`, in row order, once they have arrived."""

    sampled: list[Sequence]
    tokens: SampledTokens


class Engine:
    """Owns the sequences in flight. Not for several threads.

    Every request ends exactly once, in the result of some step: by an output with a finish reason, or by a failure.

    With `overlap`, a step is planned and given to the device while the one before still runs there, so its result
    tells the tokens of the one before. What is not known yet, whether a token ends its sequence, costs at most one
    token computed in vain. Tokens that the host must know first, those of sequences with penalties, are waited for.
    """

    def __init__(
        self,
        model: Model,
        storage: PageStorage,
        pool: PagePool,
        residency: Residency,
        loader: Loader,
        config: EngineConfig,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        device = storage.pages.device
        self._model = model
        self._storage = storage
        self._pool = pool
        self._residency = residency
        self._loader = loader
        self._config = config
        self._meter = Meter(storage.page_bytes, clock)
        self._scheduler = Scheduler(pool, residency, config)
        self._batches = BatchBuilder(config, residency, device)
        self._sampler = Sampler(device)
        self._in_flight: _InFlight | None = None
        self._sequences: dict[str, Sequence] = {}
        self._outputs: list[SequenceOutput] = []  # of the next result
        self._failures: list[RequestFailure] = []
        self._moves: list[PoolResidency] = []
        self._evicted: set[str] = set()  # adapters, since the last step was launched
        self._num_arrivals = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do or tell anything."""
        return bool(self._sequences or self._outputs or self._failures or self._in_flight)

    def add(self, request: EngineRequest) -> None:
        """Take a request; if it cannot be served, the next step's result says why."""
        assert request.request_id not in self._sequences, f"{request.request_id} is in flight"
        try:
            check_request(request, self._config)
            sequence = Sequence(request, self._num_arrivals, self._config.context_length)
            self._scheduler.add(sequence)
        except WorkerError as error:
            self._failures.append(RequestFailure.of(request.request_id, error))
            return
        self._num_arrivals += 1
        self._sequences[request.request_id] = sequence

    def cancel(self, request_id: str) -> None:
        """Stop a request and free its pages now; the next step's result tells. A request that ended stays ended."""
        if request_id in self._sequences:
            self._end(self._sequences[request_id])
            self._outputs.append(SequenceOutput(request_id, finish_reason=FinishReason.CANCELLED))

    @torch.inference_mode()
    def warm_up(self, adapter: HostedAdapter | None = None) -> None:
        """Let the model record its steps, and do once all that a step does, so that no request pays for a first time.

        Args:
            adapter: One whose host pages may be read, whatever they hold; None: steps with adapters are recorded alone.
        """
        for batch in self._batches.nobodys():  # the largest first: what the others need on their way fits in its memory
            self._model.forward(batch, self._storage.pages)
        for uses, params in ((adapter, WAYS_TO_SAMPLE[0]), *((None, params) for params in WAYS_TO_SAMPLE)):
            self.add(EngineRequest("", (0, 0), 4, params, uses))
            while self.has_work:
                self.step()
        self._residency.reclaim(self._pool.total_pages)
        self._note_moves()
        self._moves.clear()
        self._meter.reset()

    @torch.inference_mode()
    def step(self) -> StepResult:
        """Compute the next tokens of as many sequences as the bounds allow."""
        self._meter.begin()
        if self._in_flight is not None and self._in_flight.tokens.shape_next:
            self._land()
        plan = self._plan()
        launched = self._launch(plan) if plan.sequences else None
        self._land()
        self._take_off(launched)
        if not self._config.overlap:
            self._land()
        if not self._sequences and self._in_flight is None:
            self._check_integrity()
        return self._result()

    def _plan(self) -> Plan:
        """Decide who runs, and begin the copies of adapters."""
        self._residency.note_arrived(self._loader.take_arrived())
        self._residency.hide(self._hidden_pages())
        plan = self._scheduler.schedule()
        loads = self._residency.take_loads()
        self._loader.perform(loads)
        self._note_moves()
        self._meter.count_loads(loads)
        self._meter.lap(Part.PLAN)
        return plan

    def _hidden_pages(self) -> int:
        """Pages of adapters that are copied while the step in flight runs, if it takes as long as the last one."""
        seconds = 0.0 if self._in_flight is None else self._meter.last_step_s
        return int(seconds * HIDDEN_BYTES_PER_S) // self._storage.page_bytes

    def _note_moves(self) -> None:
        """Keep what entered and left the pool for the result, and drop what is kept of those that left."""
        for change in self._residency.take_changes():
            self._moves.append(change)
            if not change.resident:
                self._evicted.add(change.digest)
                self._batches.forget_adapter(change.digest)

    def _launch(self, plan: Plan) -> _InFlight:
        """Give a step to the device, and note what it will have computed."""
        # Of those that were evicted, too: the step may write to pages that one of them was still copied to.
        self._loader.hold_step(lambda: {sequence.group for sequence in plan.sequences} | self._evicted)
        self._evicted.clear()
        pending = None if self._in_flight is None else self._in_flight.tokens.tokens
        batch = self._batches.build(plan, pending)
        self._meter.lap(Part.PACK)
        logits = self._model.forward(batch.forward, self._storage.pages)
        tokens = self._sampler.sample(logits[: len(batch.sampled)], batch.sampled)
        num_prefill_rows = 0
        for sequence, num_tokens in zip(plan.sequences, plan.num_tokens, strict=True):
            if sequence.num_computed < sequence.num_prompt:
                num_prefill_rows += min(num_tokens, sequence.num_prompt - sequence.num_computed)
            sequence.num_computed += num_tokens
        self._meter.count_batch(plan, num_prefill_rows)
        self._meter.lap(Part.LAUNCH)
        return _InFlight(batch.sampled, tokens)

    def _take_off(self, launched: _InFlight | None) -> None:
        """The step just launched is the one in flight from here on."""
        self._in_flight = launched
        for row, sequence in enumerate(launched.sampled if launched else ()):
            if sequence.state is not SequenceState.FINISHED:
                sequence.await_token(row)

    def _land(self) -> None:
        """Wait for the tokens in flight, and give each to its sequence, unless that has ended meanwhile."""
        if self._in_flight is None:
            return
        sampled, tokens = self._in_flight.sampled, self._in_flight.tokens
        self._in_flight = None
        token_ids = tokens.token_ids
        self._meter.lap(Part.WAIT)
        self._pool.settle()
        for row, (sequence, token_id) in enumerate(zip(sampled, token_ids, strict=True)):
            if sequence.state is not SequenceState.FINISHED:
                self._emit(sequence, token_id, (tokens.logprobs[row],) if row in tokens.logprobs else ())
        self._meter.lap(Part.EMIT)

    def _emit(self, sequence: Sequence, token_id: int, logprobs: tuple[PositionLogprobs, ...]) -> None:
        request = sequence.request
        if token_id == NO_TOKEN:
            self._failures.append(RequestFailure.of(request.request_id, no_distribution(sequence)))
            self._end(sequence)
            return
        if token_id in request.stop_token_ids:
            self._outputs.append(SequenceOutput(request.request_id, finish_reason=FinishReason.STOP))
            self._end(sequence)
            return
        sequence.append(token_id)
        self._meter.num_output_tokens += 1
        finish_reason = FinishReason.LENGTH if sequence.is_full else None
        self._outputs.append(SequenceOutput(request.request_id, (token_id,), logprobs, finish_reason))
        if finish_reason is not None:
            self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        """Take a sequence out; whoever hears of it may give its adapter's host pages to another."""
        self._scheduler.finish(sequence)
        if sequence.adapter is not None:
            self._loader.finish(sequence.group)
        del self._sequences[sequence.request.request_id]

    def _check_integrity(self) -> None:
        assert self._pool.kv_pages == 0, f"{self._pool.kv_pages} pages hold KV of no sequence"
        self._pool.check_integrity()
        self._residency.check_integrity()

    def _result(self) -> StepResult:
        moves, self._moves = tuple(self._moves), []
        outputs, self._outputs = tuple(self._outputs), []
        failures, self._failures = tuple(self._failures), []
        return StepResult(outputs, failures, moves, self._meter.stats(self._pool, self._residency, self._scheduler))
