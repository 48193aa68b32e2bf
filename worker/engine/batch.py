"""From a plan to the tensors of a forward pass.

Every step pays for what happens here in Python, so no loop runs over tokens: the ids that the host knows are joined as
bytes, and the rest is arithmetic on whole arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from kernels.lora import LoraBatch
from worker.adapters.residency import Residency
from worker.engine.config import EngineConfig
from worker.engine.fixed import FixedMemory, FixedTables
from worker.engine.lora_tables import TARGETS, LoraTables
from worker.engine.scheduler import Plan
from worker.engine.sequence import Sequence
from worker.engine.staging import joined, to_device
from worker.engine.tables import Tables
from worker.model.batch import ForwardBatch
from worker.types import BatchSize, HostedAdapter

# Rows that a recorded step leaves out past its last attention, at least: with fewer, what it launches to tell whose the
# others are takes as long (by estimate, for an H200).
_LEAST_LEFT_OUT = 256


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A step's tensors, and the sequences whose next token its first logit rows tell, in row order."""

    forward: ForwardBatch
    sampled: list[Sequence]


class BatchBuilder:
    """Builds batches for one device.

    If `config` has graph sizes, a batch is filled up to the next of them and lies at the same addresses every time, so
    that what the device does with it can be recorded once and replayed.
    """

    def __init__(self, config: EngineConfig, residency: Residency, device: torch.device) -> None:
        self._block_size = config.block_size
        self._device = device
        self._decode_sizes = config.decode_sizes
        self._chunk_sizes = config.chunk_sizes
        self._lora = LoraTables(residency, device, config.max_running, config.max_rank)
        max_blocks = -(-config.context_length // config.block_size)
        self._fixed = FixedMemory(self.sizes, config.max_running, max_blocks, device) if self.sizes else None

    @property
    def sizes(self) -> tuple[BatchSize, ...]:
        """Fixed sizes of batches, ascending by rows; of decodes, then of any."""
        return self._decode_sizes + self._chunk_sizes

    def build(self, plan: Plan, pending: Tensor | None = None) -> StepBatch:
        """The tensors of a plan that has at least one sequence.

        Args:
            plan: Who runs.
            pending: Tokens of the step in flight, `[num_sampled]` on the device: those of each `pending_row`.
        """
        sequences = plan.sequences
        sources = np.array([-1 if s.pending_row is None else s.pending_row for s in sequences], dtype=np.int64)
        is_fed = sources >= 0
        tables, is_sampled = self._tables_of(plan, is_fed)
        live, row_start = _live_adapters(sequences, tables.query_start)
        logit_start = np.searchsorted(tables.logit_rows, row_start).astype(np.int32)
        tables = replace(tables, row_start=row_start, logit_start=logit_start, lora_slots=self._lora.slots(live))
        assert is_sampled[is_fed].all(), "a pending token is its sequence's last"
        sources, targets = sources[is_fed], (tables.query_start[1:] - 1)[is_fed].astype(np.int64)
        size = self._size(plan, len(tables.token_ids), all_sampled=bool(is_sampled.all()))
        if size is None:
            *tensors, first_rows, first_logits, slots, block_table, source, target = to_device(
                [*tables.of_fixed_size(), tables.block_table, sources, targets], self._device
            )
            lora = self._lora.batch(live, slots, first_rows) if live else None
            forward = _batch(tensors, first_logits, block_table, lora, max(plan.num_tokens))
        else:
            assert self._fixed is not None, "there are sizes"
            sent = self._fixed.send(size, tables, sources, targets)
            source, target = sent.sources, sent.targets
            forward = self._forward(sent, size, self._lora.targets(live))
        if len(sources):
            assert pending is not None, "a sequence waits for a token that is not in flight"
            _feed(forward.token_ids, pending, source, target, in_order=np.array_equal(sources, targets))
        return StepBatch(forward, list(compress(sequences, is_sampled.tolist())))

    def nobodys(self) -> Iterator[ForwardBatch]:
        """For every fixed size, the largest first, batches in which no sequence owns a row: without adapters, and with.

        They compute and change nothing. Those of all modules come before those of fewer, as they need more memory.
        """
        self._lora.reserve()
        nothing = np.zeros(0, dtype=np.int64)
        for size in sorted(self.sizes, key=lambda size: size.num_rows, reverse=True):
            assert self._fixed is not None, "there are sizes"
            for targets in (None, *reversed(TARGETS)):
                sent = self._fixed.send(size, Tables.nobodys(size), nothing, nothing)
                yield self._forward(sent, size, targets)

    def _forward(self, sent: FixedTables, size: BatchSize, targets: frozenset[int] | None) -> ForwardBatch:
        """The batch of a fixed size whose tables these are, with adapters that target so much, or with none."""
        *tensors, first_rows, first_logits, slots = sent.tensors
        lora = None
        if targets is not None:
            lora = self._lora.fixed(slots, first_rows, targets, is_decode=size.is_decode)
        return _batch(tensors, first_logits, sent.block_table, lora, 1 if size.is_decode else None, size)

    def _size(self, plan: Plan, num_rows: int, *, all_sampled: bool) -> BatchSize | None:
        """The fixed size for a plan, if one is large enough."""
        is_decode = all_sampled and max(plan.num_tokens) == 1
        sizes = self._decode_sizes if is_decode else self._chunk_sizes
        return next((size for size in sizes if size.num_rows >= num_rows), None)

    def _tables_of(self, plan: Plan, is_fed: NDArray[np.bool_]) -> tuple[Tables, NDArray[np.bool_]]:
        """The tables, and which sequences' last tokens are among the rows, so that their next is wanted.

        `is_fed` tells whose last token the host does not know: where that belongs is a 0.
        """
        sequences = plan.sequences
        num_tokens = np.array(plan.num_tokens, dtype=np.int64)
        computed = np.array([s.num_computed for s in sequences], dtype=np.int64)
        lengths = np.array([s.num_tokens for s in sequences], dtype=np.int64)
        query_start = np.zeros(len(sequences) + 1, dtype=np.int32)
        np.cumsum(num_tokens, out=query_start[1:])
        block_table = _block_table(sequences)
        owner = np.repeat(np.arange(len(sequences)), num_tokens)  # of each row
        positions = np.arange(len(owner)) + (computed - query_start[:-1])[owner]
        pages = block_table[owner, positions // self._block_size].astype(np.int64)
        context_lens = computed + num_tokens
        is_sampled = context_lens == lengths
        tables = Tables(
            token_ids=_token_ids(sequences, computed, np.minimum(context_lens, lengths - is_fed), positions, owner),
            positions=positions,
            query_start=query_start,
            context_lens=context_lens.astype(np.int32),
            kv_slots=pages * self._block_size + positions % self._block_size,
            logit_rows=(query_start[1:] - 1)[is_sampled].astype(np.int64),
            row_start=np.zeros(0, dtype=np.int32),
            logit_start=np.zeros(0, dtype=np.int32),
            lora_slots=np.zeros(0, dtype=np.int32),
            block_table=block_table,
        )
        return tables, is_sampled

    def forget_adapter(self, digest: str) -> None:
        """Drop what is kept of an adapter that left the pool."""
        self._lora.forget(digest)


def _batch(
    tensors: list[Tensor],
    first_logits: Tensor,
    block_table: Tensor,
    lora: LoraBatch | None,
    max_query_len: int | None,
    size: BatchSize | None = None,
) -> ForwardBatch:
    token_ids, positions, query_start, context_lens, kv_slots, logit_rows = tensors
    attention = AttentionBatch(query_start, context_lens, block_table, kv_slots, max_query_len)
    least = 1 if size is None else _LEAST_LEFT_OUT
    is_narrow = token_ids.shape[0] - logit_rows.shape[0] >= least
    logit_lora = lora.with_last_rows(first_logits) if lora is not None and is_narrow else None
    return ForwardBatch(token_ids, positions, attention, lora, logit_rows, is_narrow, logit_lora, size)


def _feed(token_ids: Tensor, pending: Tensor, source: Tensor, target: Tensor, *, in_order: bool) -> None:
    """Puts tokens of the step in flight, of rows `source`, where they belong, at rows `target`.

    A sequence that got none fails when the host hears of it; until then any token will do.
    """
    count = source.shape[0]
    if in_order and count == pending.shape[0]:  # the same sequences decode again
        torch.clamp(pending, min=0, out=token_ids[:count])
    else:
        token_ids.index_copy_(0, target, pending.index_select(0, source).clamp_(min=0))


def _token_ids(
    sequences: list[Sequence],
    computed: NDArray[np.int64],
    ends: NDArray[np.int64],
    positions: NDArray[np.int64],
    owner: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The rows' tokens: of each sequence those from what is computed up to an end, and 0 after that."""
    token_ids = np.zeros(len(owner), dtype=np.int64)
    known = np.flatnonzero(ends > computed).tolist()  # of those that decode most wait for a token, as a rule
    if known:
        chunks = (sequences[i].token_ids[computed[i] : ends[i]] for i in known)
        token_ids[positions < ends[owner]] = joined(chunks, np.int64)
    return token_ids


def _block_table(sequences: list[Sequence]) -> NDArray[np.int32]:
    num_blocks = np.array([len(s.pages) for s in sequences])
    is_block = np.arange(num_blocks.max()) < num_blocks[:, None]
    table = np.full(is_block.shape, -1, dtype=np.int32)
    table[is_block] = joined((s.pages for s in sequences), np.int32)
    return table


def _live_adapters(
    sequences: list[Sequence], query_start: NDArray[np.int32]
) -> tuple[list[HostedAdapter], NDArray[np.int32]]:
    """The adapters in row order, and the first row of each, then the number of rows."""
    groups = ["", *(s.group for s in sequences)]  # "", the base model's, comes first
    first = [index for index, (before, own) in enumerate(pairwise(groups)) if own != before]
    live = [adapter for index in first if (adapter := sequences[index].adapter) is not None]
    assert len(live) == len(first), "the base model's rows come first"
    return live, query_start[[*first, len(sequences)]]
