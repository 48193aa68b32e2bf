"""Who runs in the next step, with how many tokens.

Continuous batching with chunked prefill. Every running sequence decodes in every step; what the token budget leaves
goes to prompts, in chunks, oldest first; what is left then admits waiting sequences. An admitted sequence gets its
adapter and the pages of all its tokens at once, so that only decoding, a block at a time, can run out of pages: then
idle adapters leave the pool, and after them the youngest sequence of the lowest priority goes back to wait. It is
computed again later, its own output included, and never killed. One sequence always fits (`add` refuses any other),
so the first in `running_order` always goes on.

Adapters of waiting sequences are copied ahead of their turn, in the order of the queue, into room that nobody needs
now. A sequence whose adapter is on its way starts at once if the copy is short enough to be hidden under the step in
flight; one whose adapter takes longer starts when it has arrived, so that no other waits for the copy.

Pure and deterministic: no clock, no random numbers, no tensors.
"""

from bisect import insort
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter

from worker.adapters.residency import Residency
from worker.engine.config import EngineConfig
from worker.engine.errors import WaitingQueueFull
from worker.engine.sequence import Sequence, SequenceState
from worker.engine.waiting import WaitingQueue
from worker.memory.errors import PoolTooSmall
from worker.memory.pool import PageKind, PagePool
from worker.types import HostedAdapter

_RUNNING_ORDER = attrgetter("running_order")


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: `num_tokens[i]` next tokens of `sequences[i]`, grouped by adapter, the base model's first."""

    sequences: list[Sequence]
    num_tokens: list[int]


class _Verdict(Enum):
    """What became of a waiting sequence; only where it waits for its adapter may those behind it go first."""

    STARTED = "started"
    WAITS_FOR_ADAPTER = "its adapter finds no room, or is on its way"
    NO_ROOM_FOR_KV = "no room for its KV"


class Scheduler:
    """Owns the sequences in flight, their states and their pages."""

    def __init__(self, pool: PagePool, residency: Residency, config: EngineConfig) -> None:
        self._pool = pool
        self._residency = residency
        self._config = config
        self._reserve = int(config.watermark * pool.total_pages)
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # in running_order
        self._num_preemptions = 0

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences not in the batch."""
        return len(self._waiting)

    @property
    def num_preemptions(self) -> int:
        """How often a running sequence lost its pages."""
        return self._num_preemptions

    @property
    def pending_prefill_tokens(self) -> int:
        """Tokens to compute before every sequence decodes."""
        uncomputed = [s.num_tokens - s.num_computed for s in self._running]
        return self._waiting.num_tokens + sum(count for count in uncomputed if count > 1)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn.

        Raises:
            PoolTooSmall: it would not fit even if it ran alone.
            WaitingQueueFull: `max_waiting` others wait.
        """
        adapter_pages = len(sequence.adapter.host_pages) if sequence.adapter else 0
        kv_pages = self._blocks(sequence.max_computed)
        if adapter_pages + kv_pages > self._pool.total_pages:
            raise PoolTooSmall(
                f"the request needs {kv_pages} pages for {sequence.max_length} tokens and {adapter_pages} pages for "
                f"its adapter, and the pool has {self._pool.total_pages}: lower max_tokens, shorten the prompt, or "
                "give the worker a larger pool",
                field="max_tokens",
            )
        if len(self._waiting) >= self._config.max_waiting:
            raise WaitingQueueFull(
                f"{len(self._waiting)} requests wait, as many as max_waiting allows: try again later or raise it"
            )
        self._waiting.push(sequence)

    def schedule(self) -> Plan:
        """Decide the next step, and give its sequences the pages that they need."""
        num_preemptions = self._num_preemptions
        wanted = self._wanted()
        self._residency.touch(wanted)
        chunks = self._decodes()
        budget = self._config.max_step_tokens - len(chunks)
        prefills = self._prefills(budget)
        budget -= sum(num_tokens for _, num_tokens in prefills)
        if budget > 0 and self._num_preemptions == num_preemptions:
            prefills += self._admissions(budget)
        if wanted and self._num_preemptions == num_preemptions:
            self._residency.prefetch(wanted, self._reserve // 2)
        chunks += prefills
        chunks.sort(key=lambda chunk: chunk[0].group)
        return Plan([sequence for sequence, _ in chunks], [num_tokens for _, num_tokens in chunks])

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, whatever it was doing, and free what it holds."""
        if sequence.state is SequenceState.RUNNING:
            self._stop(sequence)
        elif sequence.state is SequenceState.WAITING:
            self._waiting.remove(sequence)
        sequence.state = SequenceState.FINISHED

    def _wanted(self) -> list[HostedAdapter]:
        """The adapters of the first waiting sequences, in the order of the queue."""
        head = self._waiting.head(self._config.prefetch_window)
        return list({s.group: s.adapter for s in head if s.adapter is not None}.values())

    def _decodes(self) -> list[tuple[Sequence, int]]:
        block_size = self._config.block_size
        chunks = []
        for sequence in tuple(self._running):  # runs for every sequence in every step: no call that can be spared
            num_tokens = sequence.num_tokens
            if num_tokens - sequence.num_computed != 1 or sequence.state is not SequenceState.RUNNING:
                continue
            if num_tokens >= sequence.max_length:  # its last token is pending
                continue
            if num_tokens <= len(sequence.pages) * block_size or self._grow(sequence):
                chunks.append((sequence, 1))
        return chunks

    def _prefills(self, budget: int) -> list[tuple[Sequence, int]]:
        chunks = []
        for sequence in [s for s in self._running if s.num_tokens - s.num_computed > 1]:
            num_tokens = min(budget, sequence.num_uncomputed)
            if num_tokens == 0:
                break
            budget -= num_tokens
            chunks.append((sequence, num_tokens))
        return chunks

    def _admissions(self, budget: int) -> list[tuple[Sequence, int]]:
        admitted: list[tuple[Sequence, int]] = []
        passed: list[Sequence] = []
        in_use = {sequence.group for sequence in self._running} if self._waiting else set()
        for sequence in self._waiting.head(self._config.admission_window):
            if budget == 0 or len(self._running) == self._config.max_running:
                break
            verdict = self._try_start(sequence, in_use)
            if verdict is _Verdict.STARTED:
                in_use.add(sequence.group)
                num_tokens = min(budget, sequence.num_uncomputed)
                budget -= num_tokens
                admitted.append((sequence, num_tokens))
                for other in passed:
                    other.num_passed += 1
                if any(other.num_passed >= self._config.max_skips for other in passed):
                    break
            elif verdict is _Verdict.NO_ROOM_FOR_KV or sequence.num_passed >= self._config.max_skips:
                break
            else:
                passed.append(sequence)
        for sequence, _ in admitted:
            self._waiting.remove(sequence)
        return admitted

    def _try_start(self, sequence: Sequence, in_use: set[str]) -> _Verdict:
        """Give a waiting sequence its adapter and the pages of its tokens, if there is room for both.

        Room is what is free and what idle adapters hold; an adapter that nobody uses yet takes its own pages from it.
        """
        count = self._blocks(sequence.num_tokens)
        room = self._pool.free_pages + self._residency.evictable_pages - count
        if self._running:
            room -= self._reserve
        adapter = sequence.adapter
        if adapter is None or adapter.digest in in_use:
            if room < 0:
                return _Verdict.NO_ROOM_FOR_KV
        elif room < len(adapter.host_pages) or self._is_awaited(adapter):
            return _Verdict.WAITS_FOR_ADAPTER
        if adapter is not None and not self._residency.acquire(adapter):
            return _Verdict.WAITS_FOR_ADAPTER
        self._residency.reclaim(count)
        sequence.pages.extend(self._pool.allocate(count, PageKind.KV))
        sequence.state = SequenceState.RUNNING
        insort(self._running, sequence, key=_RUNNING_ORDER)
        return _Verdict.STARTED

    def _is_awaited(self, adapter: HostedAdapter) -> bool:
        """Whether the copy of an adapter that nobody uses has to be done before a sequence may start with it."""
        if not self._running or not self._config.prefetch_window:
            return False
        return self._residency.is_large(adapter) and not self._residency.has_arrived(adapter.digest)

    def _grow(self, sequence: Sequence) -> bool:
        """Give a decoding sequence its next page; False if it had to give up all it had instead."""
        while self._pool.free_pages == 0 and self._residency.reclaim(1) == 0:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.pages.extend(self._pool.allocate(1, PageKind.KV))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        sequence.state = SequenceState.WAITING
        sequence.num_computed = 0
        sequence.was_preempted = True
        self._waiting.push(sequence)
        self._num_preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._pool.release(sequence.pages)
        del sequence.pages[:]
        if sequence.adapter is not None:
            self._residency.release(sequence.group)

    def _blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._config.block_size)
