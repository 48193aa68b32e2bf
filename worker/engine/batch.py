"""From a plan to the tensors of a forward pass.

Every step pays for what happens here in Python, so no loop runs over tokens: the ids of all sequences are joined as
bytes, and the rest is arithmetic on whole arrays.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from kernels.lora import LoraBatch
from worker.adapters.residency import Residency
from worker.engine.config import EngineConfig
from worker.engine.lora_tables import LoraTables
from worker.engine.scheduler import Plan
from worker.engine.sequence import Sequence
from worker.engine.staging import joined, staged_bytes, to_device
from worker.model.batch import ForwardBatch
from worker.types import BatchSize, HostedAdapter

_ANY_TOKEN = array("q", [0])  # stands where a pending token belongs


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A step's tensors, and the sequences whose next token its first logit rows tell, in row order."""

    forward: ForwardBatch
    sampled: list[Sequence]


@dataclass(frozen=True, slots=True)
class _Arrays:
    """A forward batch's tables on the host; `ForwardBatch`, `AttentionBatch` and `LoraBatch` say what each is."""

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    query_start: NDArray[np.int32]
    context_lens: NDArray[np.int32]
    kv_slots: NDArray[np.int64]
    logit_rows: NDArray[np.int64]
    row_start: NDArray[np.int32]
    lora_slots: NDArray[np.int32]
    block_table: NDArray[np.int32]  # behind those whose sizes are fixed

    def padded(self, size: BatchSize) -> "_Arrays":
        """The same in a batch of fixed size: the sequences and adapters that were added own no row and no token.

        The block table stays as it is.
        """
        rows, last_row = size.num_rows - len(self.token_ids), self.query_start[-1]
        seqs = size.num_seqs - len(self.context_lens)
        return _Arrays(
            token_ids=_extended(self.token_ids, rows, 0),
            positions=_extended(self.positions, rows, 0),
            query_start=_extended(self.query_start, seqs, last_row),
            context_lens=_extended(self.context_lens, seqs, 0),
            kv_slots=_extended(self.kv_slots, rows, -1),
            logit_rows=_extended(self.logit_rows, size.num_seqs - len(self.logit_rows), 0),
            row_start=_extended(self.row_start, size.num_seqs + 1 - len(self.row_start), last_row),
            lora_slots=_extended(self.lora_slots, size.num_seqs - len(self.lora_slots), 0),
            block_table=self.block_table,
        )

    def as_list(self) -> list[NDArray[Any]]:
        """In the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]


class BatchBuilder:
    """Builds batches for one device.

    If `config` has graph sizes, a batch is filled up to the next of them and lies at the same addresses every time, so
    that what the device does with it can be recorded once and replayed. Its block table is as wide as the longest
    sequence may need; only the columns in use are sent, and what is left in the others is of earlier steps.
    """

    def __init__(self, config: EngineConfig, residency: Residency, device: torch.device) -> None:
        self._block_size = config.block_size
        self._max_blocks = -(-config.context_length // config.block_size)
        self._device = device
        self._decode_sizes = config.decode_sizes
        self._chunk_sizes = config.chunk_sizes
        self._tables = LoraTables(residency, device)
        if sizes := self.sizes:
            # What batches of fixed size lie in, and their block table.
            self._table = torch.full((config.max_running, self._max_blocks), -1, dtype=torch.int32, device=device)
            largest = max(staged_bytes(_nobody(size).as_list()) for size in sizes)
            feed = 2 * config.max_running * np.dtype(np.int64).itemsize + 64
            self._memory = torch.zeros(largest + self._table.nbytes + feed, dtype=torch.uint8, device=device)

    @property
    def sizes(self) -> tuple[BatchSize, ...]:
        """Fixed sizes of batches, ascending by rows; of decodes, then of any."""
        return self._decode_sizes + self._chunk_sizes

    def build(self, plan: Plan, pending: Tensor | None = None) -> StepBatch:
        """The tensors of a plan that has at least one sequence.

        Args:
            plan: Who runs.
            pending: Tokens of the step in flight, `[num_rows]` on the device: of sequences with a `pending_row`.
        """
        sequences = plan.sequences
        arrays, is_sampled = self._arrays(plan)
        live, row_start = _live_adapters(sequences, arrays.query_start)
        arrays = replace(arrays, row_start=row_start, lora_slots=self._tables.slots(live))
        size = self._size(plan, len(arrays.token_ids), all_sampled=bool(is_sampled.all()))
        if size is not None:
            arrays = arrays.padded(size)

        fed = [row for row, s in enumerate(sequences) if s.pending_row is not None]
        sources = np.array([sequences[row].pending_row for row in fed], dtype=np.int64)
        targets = (arrays.query_start[1:] - 1)[fed].astype(np.int64)
        memory = None if size is None else self._memory
        *tensors, source, target = to_device([*arrays.as_list(), sources, targets], self._device, memory)
        if fed:
            assert pending is not None, "a sequence waits for a token that is not in flight"
            # A sequence that got no token fails when the host hears of it; until then any will do.
            tensors[0].index_copy_(0, target, pending.index_select(0, source).clamp_(min=0))
        if size is not None:
            forward = self._forward(tensors, size, with_adapters=bool(live))
        else:
            *tables, first_rows, slots, block_table = tensors
            lora = self._tables.batch(live, slots, first_rows) if live else None
            forward = _batch(tables, block_table, lora, max(plan.num_tokens))
        return StepBatch(forward, [s for s, ends in zip(sequences, is_sampled.tolist(), strict=True) if ends])

    def nobodys(self) -> Iterator[ForwardBatch]:
        """For every fixed size, the largest first, a batch in which no sequence owns a row, without and with adapters.

        They compute and change nothing.
        """
        self._tables.reserve()
        for size in sorted(self.sizes, key=lambda size: size.num_rows, reverse=True):
            arrays = _nobody(size).as_list()
            for with_adapters in (False, True):
                tensors = to_device(arrays, self._device, self._memory)
                yield self._forward(tensors, size, with_adapters=with_adapters)

    def _forward(self, tensors: list[Tensor], size: BatchSize, *, with_adapters: bool) -> ForwardBatch:
        """The batch of a fixed size whose tables are these."""
        *tables, first_rows, slots, sent = tensors
        block_table = self._table[: size.num_seqs]
        block_table[: sent.shape[0], : sent.shape[1]].copy_(sent)
        lora = self._tables.fixed(slots, first_rows) if with_adapters else None
        return _batch(tables, block_table, lora, 1 if size.is_decode else None, size)

    def _size(self, plan: Plan, num_rows: int, *, all_sampled: bool) -> BatchSize | None:
        """The fixed size for a plan, if one is large enough."""
        is_decode = all_sampled and max(plan.num_tokens) == 1
        sizes = self._decode_sizes if is_decode else self._chunk_sizes
        return next((size for size in sizes if size.num_rows >= num_rows), None)

    def _arrays(self, plan: Plan) -> tuple[_Arrays, NDArray[np.bool_]]:
        """The tables, and which sequences' last tokens are among the rows, so that their next is wanted."""
        sequences = plan.sequences
        num_tokens = np.array(plan.num_tokens, dtype=np.int64)
        computed = np.array([s.num_computed for s in sequences], dtype=np.int64)
        query_start = np.zeros(len(sequences) + 1, dtype=np.int32)
        np.cumsum(num_tokens, out=query_start[1:])
        token_ids = joined((_chunk(s, n) for s, n in zip(sequences, plan.num_tokens, strict=True)), np.int64)
        block_table = _block_table(sequences)
        owner = np.repeat(np.arange(len(sequences)), num_tokens)  # of each row
        positions = np.arange(len(token_ids)) + (computed - query_start[:-1])[owner]
        pages = block_table[owner, positions // self._block_size].astype(np.int64)
        context_lens = computed + num_tokens
        is_sampled = context_lens == np.array([s.num_tokens for s in sequences])
        arrays = _Arrays(
            token_ids=token_ids,
            positions=positions,
            query_start=query_start,
            context_lens=context_lens.astype(np.int32),
            kv_slots=pages * self._block_size + positions % self._block_size,
            logit_rows=(query_start[1:] - 1)[is_sampled].astype(np.int64),
            row_start=query_start[-1:],
            lora_slots=np.zeros(0, dtype=np.int32),
            block_table=block_table,
        )
        return arrays, is_sampled

    def forget_adapter(self, digest: str) -> None:
        """Drop what is kept of an adapter that left the pool."""
        self._tables.forget(digest)


def _batch(
    tables: list[Tensor],
    block_table: Tensor,
    lora: LoraBatch | None,
    max_query_len: int | None,
    size: BatchSize | None = None,
) -> ForwardBatch:
    token_ids, positions, query_start, context_lens, kv_slots, logit_rows = tables
    attention = AttentionBatch(query_start, context_lens, block_table, kv_slots, max_query_len)
    return ForwardBatch(token_ids, positions, attention, lora, logit_rows, size)


def _nobody(size: BatchSize) -> _Arrays:
    none, no_row, nothing = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int32), np.zeros(0, dtype=np.int32)
    no_table = np.zeros((0, 0), dtype=np.int32)
    return _Arrays(none, none, no_row, nothing, none, none, no_row, nothing, no_table).padded(size)


def _extended(array: NDArray[Any], count: int, value: int) -> NDArray[Any]:
    return np.concatenate([array, np.full(count, value, dtype=array.dtype)])


def _chunk(sequence: Sequence, num_tokens: int) -> "array[int]":
    """The next `num_tokens` tokens; the last may be pending."""
    known = sequence.token_ids[sequence.num_computed : sequence.num_computed + num_tokens]
    return known if len(known) == num_tokens else known + _ANY_TOKEN


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
    live: list[HostedAdapter] = []
    first: list[int] = []
    group = ""
    for index, sequence in enumerate(sequences):
        if sequence.group != group:  # "", the base model's, comes first
            group, adapter = sequence.group, sequence.adapter
            assert adapter is not None, "the base model's rows come first"
            live.append(adapter)
            first.append(index)
    return live, query_start[[*first, len(sequences)]]
