"""A worker in virtual time: continuous batching whose steps, room and adapter loads cost what a model says."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from control_plane.core.types import (
    AdapterRef,
    BatchAcked,
    DispatchedRequest,
    Event,
    FinishReason,
    Request,
    ResidencyTier,
    SendBatch,
    SequenceOutput,
    TokensProduced,
    WorkerReported,
    WorkerStatus,
)
from control_plane.simulation.service import ServiceModel, WorkerTraits

BASE_MODEL = "simulated"
_BLOCK_SIZE = 16


@dataclass(slots=True)
class _Sequence:
    """A request here: `num_left` tokens are still to be produced, `num_unsent` were and are not reported yet."""

    request_id: str
    adapter: AdapterRef | None
    num_context: int
    num_left: int
    ready_at: float
    num_unsent: int = 0


class Machine:
    """One life of a worker. `later(delay, action)` runs actions, `send(event)` delivers to the director."""

    def __init__(
        self,
        worker_id: str,
        model: ServiceModel,
        traits: WorkerTraits,
        output_tokens_of: Callable[[str], int],
        later: Callable[[float, Callable[[], None]], None],
        send: Callable[[Event], None],
        clock: Callable[[], float],
    ) -> None:
        self.worker_id = worker_id
        self.is_up = True
        self.num_tokens = 0
        self.num_loads = 0
        self.num_fetches = 0
        self._model = traits.model(model)
        self._traits = traits
        self._output_tokens_of = output_tokens_of
        self._later = later
        self._send = send
        self._clock = clock
        self._waiting: list[_Sequence] = []
        self._running: list[_Sequence] = []
        self._pool: OrderedDict[str, AdapterRef] = OrderedDict()
        self._pool_tokens = 0
        self._host: OrderedDict[str, None] = OrderedDict()
        self._fetched_at: dict[str, float] = {}
        self._changes: dict[str, ResidencyTier] = {}
        self._forming: list[_Sequence] = []
        self._is_busy = False
        self._is_open = True
        self._num_prefilled = 0
        self._step_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether it holds no request."""
        return not self._running and not self._waiting

    def attach(self) -> None:
        """Report everything."""
        self._send(WorkerReported(self._status(is_snapshot=True)))

    def report(self) -> None:
        """Report what changed."""
        if self.is_up:
            self._send(WorkerReported(self._status(is_snapshot=False)))

    def take(self, batch: SendBatch) -> None:
        """Requests and hints came down the stream."""
        if not self.is_up:
            return
        for adapter in batch.prefetch:
            self._fetch(adapter)
        for dispatched in batch.requests:
            self._waiting.append(self._sequence(dispatched))
        if batch.requests:
            self._send(BatchAcked(self.worker_id, tuple(each.request.request_id for each in batch.requests)))
        if not self._is_busy and self._waiting:
            self._is_busy = True
            self._later(max(0.0, self._waiting[0].ready_at - self._clock()), self._turn)

    def could_start(self, request: Request) -> bool:
        """Whether the request would go into the batch that is formed now."""
        sequence = _Sequence(
            request.request_id, request.adapter, len(request.prompt_token_ids), request.max_tokens, 0.0
        )
        num_tokens = sum(each.num_context for each in self._forming) + sequence.num_context
        if self._forming and num_tokens > self._model.batch_tokens:
            return False
        return self._fits((*self._forming, sequence))

    def _sequence(self, dispatched: DispatchedRequest) -> _Sequence:
        request, num_resumed = dispatched.request, len(dispatched.resumed_token_ids)
        ready_at, adapter = self._clock(), request.adapter
        if adapter is not None:
            ready_at = self._fetch(adapter)
            if adapter.digest not in self._pool and not self._model.is_load_blocking:
                ready_at += self._load_s(adapter)
        num_output = max(1, self._output_tokens_of(request.request_id) - num_resumed)
        return _Sequence(request.request_id, adapter, len(request.prompt_token_ids) + num_resumed, num_output, ready_at)

    def _turn(self) -> None:
        """Between steps: take in what fits, compute its prompts, or go on decoding."""
        if not self.is_up:
            return
        batch = self._admit()
        if batch:
            self._later(self._prefill_s(batch), lambda: self._prefilled(batch))
        elif self._running:
            self._decode(self._model.steps_per_look)
        elif self._waiting:
            ready_at = min(sequence.ready_at for sequence in self._waiting)
            self._later(max(1e-3, ready_at - self._clock()), self._turn)
        else:
            self._is_busy = False
            self._is_open = True
            self.report()

    def _admit(self) -> list[_Sequence]:
        """The waiting requests that start now, in order up to the first that does not fit."""
        batch: list[_Sequence] = []
        self._take_fitting(batch)
        if self._model.window:
            return batch
        # One request is asked for at a time, as long as there is one that `could_start` allows.
        self._forming = batch
        while not self._waiting:
            self._is_open = True
            self.report()
            if not self._waiting:
                break
            self._take_fitting(batch)
        self._is_open = False
        self._forming = []
        self.report()
        return batch

    def _take_fitting(self, batch: list[_Sequence]) -> None:
        now, num_tokens = self._clock(), sum(sequence.num_context for sequence in batch)
        for sequence in list(self._waiting):
            if sequence.ready_at > now:
                continue
            num_tokens += sequence.num_context
            if (batch and num_tokens > self._model.batch_tokens) or not self._fits((*batch, sequence)):
                return
            self._waiting.remove(sequence)
            batch.append(sequence)

    def _fits(self, more: Iterable[_Sequence]) -> bool:
        """Whether the pool holds everything to its end, each sequence's room being free again once it has ended."""
        sequences = [*self._running, *more]
        if len(sequences) > self._model.max_running:
            return False
        adapters = {sequence.adapter.digest: sequence.adapter for sequence in sequences if sequence.adapter}
        room = self._model.pool_tokens - sum(self._adapter_tokens(adapter) for adapter in adapters.values())
        return len(sequences) == 1 or _peak_tokens(sequences) < room

    def _prefill_s(self, batch: list[_Sequence]) -> float:
        model = self._model
        duration_s = model.prefill_s + model.token_s * sum(sequence.num_context for sequence in batch)
        for sequence in batch:
            adapter = sequence.adapter
            if adapter is None:
                continue
            if adapter.digest not in self._pool:
                self.num_loads += 1
                duration_s += self._load_s(adapter) if model.is_load_blocking else 0.0
                self._pool_tokens += self._adapter_tokens(adapter)
                self._changes[adapter.digest] = ResidencyTier.POOL
            self._pool[adapter.digest] = adapter
            self._pool.move_to_end(adapter.digest)
        self._running += batch
        self._evict()
        return duration_s

    def _evict(self) -> None:
        """Let go of adapters that nothing runs with, least recently used first, until there is room for the rest."""
        in_use = {sequence.adapter.digest for sequence in self._running if sequence.adapter}
        num_context = sum(sequence.num_context for sequence in self._running)
        room = self._model.pool_tokens - num_context if self._model.keeps_idle_adapters else 0
        for digest, adapter in list(self._pool.items()):
            if self._pool_tokens <= room:
                return
            if digest not in in_use:
                del self._pool[digest]
                self._pool_tokens -= self._adapter_tokens(adapter)
                self._changes[digest] = ResidencyTier.HOST if self._is_on_host(digest) else ResidencyTier.NONE

    def _prefilled(self, batch: list[_Sequence]) -> None:
        if not self.is_up:
            return
        for sequence in batch:
            self._num_prefilled += sequence.num_context
            self._produced(sequence, 1)
        self._tell(batch)
        if self._running:
            self._decode(self._model.steps_between)
        else:
            self._turn()

    def _decode(self, num_steps: int) -> None:
        """So many steps, fewer if a sequence ends before: it must not wait for the others."""
        taken = min(num_steps, *(sequence.num_left for sequence in self._running))
        contexts = sum(sequence.num_context for sequence in self._running)
        ranks = {sequence.adapter.digest: sequence.adapter.rank for sequence in self._running if sequence.adapter}
        self._step_s = self._model.decode_s(len(self._running), contexts, sum(ranks.values()))
        self._later(taken * self._step_s, lambda: self._decoded(taken, num_steps - taken))

    def _decoded(self, num_steps: int, num_more: int) -> None:
        if not self.is_up:
            return
        for sequence in self._running:
            self._produced(sequence, num_steps)
        self._tell([each for each in self._running if each.num_left == 0] if num_more else self._running)
        if num_more and self._running:
            self._decode(num_more)
        else:
            self._turn()

    def _produced(self, sequence: _Sequence, num_tokens: int) -> None:
        sequence.num_context += num_tokens
        sequence.num_left -= num_tokens
        sequence.num_unsent += num_tokens
        self.num_tokens += num_tokens

    def _tell(self, sequences: list[_Sequence]) -> None:
        """Report what was produced, and let go of what ended."""
        self._drop_ended()
        outputs = []
        for sequence in sequences:
            reason = None if sequence.num_left else FinishReason.LENGTH
            outputs.append(SequenceOutput(sequence.request_id, (0,) * sequence.num_unsent, finish_reason=reason))
            sequence.num_unsent = 0
        if outputs:
            self._send(TokensProduced(self.worker_id, tuple(outputs)))

    def _drop_ended(self) -> None:
        num_before = len(self._running)
        self._running = [sequence for sequence in self._running if sequence.num_left]
        if len(self._running) == num_before:
            return
        if not self._model.keeps_idle_adapters:
            self._evict()
        if not self._model.window:
            # What ended frees no place before the next batch is formed.
            self.report()

    def _fetch(self, adapter: AdapterRef) -> float:
        """Bring an adapter to host memory, if it is not there; returns when it will be."""
        now, digest = self._clock(), adapter.digest
        if self._model.is_host_warm:
            return now
        if digest not in self._host:
            self.num_fetches += 1
            self._fetched_at[digest] = now + self._model.fetch_s + self._model.fetch_s_per_gb * adapter.size_bytes / 1e9
            if digest not in self._pool:
                self._changes[digest] = ResidencyTier.HOST
        self._host[digest] = None
        self._host.move_to_end(digest)
        while len(self._host) > self._model.host_adapters:
            gone, _ = self._host.popitem(last=False)
            del self._fetched_at[gone]
            if gone not in self._pool:
                self._changes[gone] = ResidencyTier.NONE
        return max(now, self._fetched_at[digest])

    def _is_on_host(self, digest: str) -> bool:
        return self._model.is_host_warm or digest in self._host

    def _load_s(self, adapter: AdapterRef) -> float:
        return self._model.load_s_per_gb * adapter.size_bytes / 1e9

    def _adapter_tokens(self, adapter: AdapterRef) -> int:
        return self._model.adapter_tokens(adapter.size_bytes)

    def _status(self, *, is_snapshot: bool) -> WorkerStatus:
        changes, self._changes = self._changes, {}
        if is_snapshot:
            changes = dict.fromkeys(self._host, ResidencyTier.HOST) | dict.fromkeys(self._pool, ResidencyTier.POOL)
        num_held = len(self._running) + len(self._forming) + len(self._waiting)
        kv_pages = sum(sequence.num_context for sequence in self._running) // _BLOCK_SIZE
        total_pages = self._model.pool_tokens // _BLOCK_SIZE
        return WorkerStatus(
            worker_id=self.worker_id,
            base_model=BASE_MODEL,
            request_window=self._model.window or num_held + self._is_open,
            total_pages=total_pages,
            free_pages=max(0, total_pages - kv_pages - self._pool_tokens // _BLOCK_SIZE),
            kv_pages=kv_pages,
            adapter_pages=self._pool_tokens // _BLOCK_SIZE,
            page_size_bytes=self._model.bytes_per_token * _BLOCK_SIZE,
            block_size=_BLOCK_SIZE,
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            pending_prefill_tokens=sum(sequence.num_context for sequence in self._waiting),
            step_ms=self._step_s * 1000,
            num_output_tokens=self.num_tokens,
            num_prefill_tokens=self._num_prefilled,
            residency=tuple(changes.items()),
            is_residency_snapshot=is_snapshot,
            labels=self._traits.labels,
            tenants=self._traits.tenants,
        )


def _peak_tokens(sequences: list[_Sequence]) -> int:
    """Most room that the sequences take together at any time until they end, none waiting for another."""
    peak = num_written = 0
    for count, sequence in enumerate(sorted(sequences, key=_num_left, reverse=True), start=1):
        num_written += sequence.num_context
        peak = max(peak, sequence.num_left * count + num_written)
    return peak


def _num_left(sequence: _Sequence) -> int:
    return sequence.num_left
