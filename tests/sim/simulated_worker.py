"""A worker in virtual time: windows, prefill, decode, adapters that are loaded and evicted, and failures."""

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from control_plane.core.types import (
    BatchAcked,
    DispatchedRequest,
    Event,
    FinishReason,
    ResidencyTier,
    SendBatch,
    SequenceOutput,
    TokensProduced,
    WorkerFailure,
    WorkerReported,
    WorkerStatus,
)
from tests.sim.witness import expected_token


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """How fast a worker is, what it holds, and how often it fails."""

    window: int = 16
    max_running: int = 8
    step_s: float = 0.02
    prefill_tokens_per_step: int = 256
    adapter_load_s: float = 0.1
    max_adapters: int = 8
    latency_s: float = 0.002
    reject_share: float = 0.0
    fail_share: float = 0.0


@dataclass(slots=True)
class _Sequence:
    dispatched: DispatchedRequest
    num_to_prefill: int
    num_output: int


class SimulatedWorker:
    """Answers as a worker would. `later(delay, action)` runs actions, `send(event)` delivers to the director."""

    def __init__(
        self,
        worker_id: str,
        model: WorkerModel,
        rng: random.Random,
        later: Callable[[float, Callable[[], None]], None],
        send: Callable[["SimulatedWorker", Event], None],
    ) -> None:
        self.worker_id = worker_id
        self.model = model
        self.is_up = True
        self._rng = rng
        self._later = later
        self._send = send
        self._sequences: dict[str, _Sequence] = {}
        self._loading: dict[str, DispatchedRequest] = {}
        self._residency: OrderedDict[str, None] = OrderedDict()
        self._changes: list[tuple[str, ResidencyTier]] = []
        self._is_stepping = False
        self._num_prefilled = 0

    def attach(self) -> None:
        """Report everything."""
        self._say(WorkerReported(self._status(is_snapshot=True)))

    def report(self) -> None:
        """Report what changed."""
        self._say(WorkerReported(self._status(is_snapshot=False)))

    def take(self, batch: SendBatch) -> None:
        """Requests came down the stream."""
        self._later(self.model.latency_s, lambda: self._take(batch))

    def cancel(self, request_id: str) -> None:
        """A cancel came down the stream."""
        self._later(self.model.latency_s, lambda: self._cancel(request_id))

    def _take(self, batch: SendBatch) -> None:
        if not self.is_up:
            return
        for dispatched in batch.requests:
            request = dispatched.request
            assert request.request_id not in self._sequences, "the worker has this request"
            if self._rng.random() < self.model.reject_share:
                self._say(BatchAcked(self.worker_id, rejected=(self._failure(request.request_id),)))
                continue
            self._loading[request.request_id] = dispatched
            is_there = request.adapter is None or request.adapter.digest in self._residency
            delay_s = 0.0 if is_there else self.model.adapter_load_s
            self._later(delay_s, lambda request_id=request.request_id: self._start(request_id))
        for adapter in batch.prefetch:
            self._later(self.model.adapter_load_s, lambda digest=adapter.digest: self._touch(digest))

    def _start(self, request_id: str) -> None:
        dispatched = self._loading.pop(request_id, None)
        if not self.is_up or dispatched is None:
            return
        request = dispatched.request
        if request.adapter is not None:
            self._touch(request.adapter.digest)
        num_output = len(dispatched.resumed_token_ids)
        self._sequences[request_id] = _Sequence(dispatched, len(request.prompt_token_ids) + num_output, num_output)
        self._say(BatchAcked(self.worker_id, accepted_request_ids=(request_id,)))
        if not self._is_stepping:
            self._is_stepping = True
            self._later(self.model.step_s, self._step)

    def _step(self) -> None:
        if not self.is_up:
            return
        budget = self.model.prefill_tokens_per_step
        outputs, failures = [], []
        for sequence in list(self._sequences.values())[: self.model.max_running]:
            request_id = sequence.dispatched.request.request_id
            if sequence.num_to_prefill:
                taken = min(budget, sequence.num_to_prefill)
                budget -= taken
                self._num_prefilled += taken
                sequence.num_to_prefill -= taken
                if sequence.num_to_prefill:
                    continue
            if self._rng.random() < self.model.fail_share:
                del self._sequences[request_id]
                failures.append(self._failure(request_id))
                continue
            token_id = expected_token(request_id, sequence.num_output)
            sequence.num_output += 1
            reason = FinishReason.LENGTH if sequence.num_output == sequence.dispatched.request.max_tokens else None
            outputs.append(SequenceOutput(request_id, (token_id,), "x", finish_reason=reason))
            if reason is not None:
                del self._sequences[request_id]
        if outputs or failures:
            self._say(TokensProduced(self.worker_id, tuple(outputs), tuple(failures)))
        self._is_stepping = bool(self._sequences)
        if self._is_stepping:
            self._later(self.model.step_s, self._step)

    def _cancel(self, request_id: str) -> None:
        if not self.is_up:
            return
        was_here = self._sequences.pop(request_id, None) or self._loading.pop(request_id, None)
        if was_here is not None:
            output = SequenceOutput(request_id, finish_reason=FinishReason.CANCELLED)
            self._say(TokensProduced(self.worker_id, (output,)))

    def _touch(self, digest: str) -> None:
        if digest not in self._residency:
            self._changes.append((digest, ResidencyTier.POOL))
        self._residency[digest] = None
        self._residency.move_to_end(digest)
        while len(self._residency) > self.model.max_adapters:
            evicted, _ = self._residency.popitem(last=False)
            self._changes.append((evicted, ResidencyTier.NONE))

    def _failure(self, request_id: str) -> WorkerFailure:
        is_retryable = self._rng.random() < 0.8
        return WorkerFailure(request_id, 14 if is_retryable else 3, "SIMULATED", "simulated", retryable=is_retryable)

    def _status(self, *, is_snapshot: bool) -> WorkerStatus:
        changes, self._changes = self._changes, []
        residency = [(digest, ResidencyTier.POOL) for digest in self._residency] if is_snapshot else changes
        return WorkerStatus(
            worker_id=self.worker_id,
            base_model="base",
            request_window=self.model.window,
            total_pages=1000,
            free_pages=1000,
            page_size_bytes=1 << 16,
            num_running=len(self._sequences),
            num_waiting=len(self._loading),
            pending_prefill_tokens=sum(each.num_to_prefill for each in self._sequences.values()),
            num_prefill_tokens=self._num_prefilled,
            residency=tuple(residency),
            is_residency_snapshot=is_snapshot,
        )

    def _say(self, event: Event) -> None:
        """Deliver an event after the network's delay; a stream keeps its order."""
        self._later(self.model.latency_s, lambda: self._send(self, event))
