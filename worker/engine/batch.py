"""From a plan to the tensors of a forward pass.

Every step pays for what happens here in Python, so no loop runs over tokens: the ids of all sequences are joined as
bytes, and the rest is arithmetic on whole arrays.
"""

from array import array
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.attention.batch import AttentionBatch
from worker.adapters.residency import Residency
from worker.engine.lora_tables import LoraTables
from worker.engine.scheduler import Plan
from worker.engine.sequence import Sequence
from worker.engine.staging import joined, to_device
from worker.model.batch import ForwardBatch
from worker.types import HostedAdapter

_ANY_TOKEN = array("q", [0])  # stands where a pending token belongs


@dataclass(frozen=True, slots=True)
class StepBatch:
    """A step's tensors, and the sequences whose next token its logit rows tell, in row order."""

    forward: ForwardBatch
    sampled: list[Sequence]


class BatchBuilder:
    """Builds batches for one device and block size."""

    def __init__(self, block_size: int, residency: Residency, device: torch.device) -> None:
        self._block_size = block_size
        self._device = device
        self._tables = LoraTables(residency, device)

    def build(self, plan: Plan, pending: Tensor | None = None) -> StepBatch:
        """The tensors of a plan that has at least one sequence.

        Args:
            plan: Who runs.
            pending: Tokens of the step in flight, `[num_rows]` on the device: of sequences with a `pending_row`.
        """
        sequences = plan.sequences
        num_tokens = np.array(plan.num_tokens, dtype=np.int64)
        computed = np.array([s.num_computed for s in sequences], dtype=np.int64)
        query_start = np.zeros(len(sequences) + 1, dtype=np.int32)
        np.cumsum(num_tokens, out=query_start[1:])
        token_ids = joined(
            (_chunk(s, n) for s, n in zip(sequences, plan.num_tokens, strict=True)),
            np.int64,
        )
        block_table = _block_table(sequences)
        owner = np.repeat(np.arange(len(sequences)), num_tokens)  # of each row
        positions = np.arange(len(token_ids)) + (computed - query_start[:-1])[owner]
        pages = block_table[owner, positions // self._block_size].astype(np.int64)
        kv_slots = pages * self._block_size + positions % self._block_size
        context_lens = computed + num_tokens
        is_sampled = context_lens == np.array([s.num_tokens for s in sequences])
        logit_rows = (query_start[1:] - 1)[is_sampled].astype(np.int64)
        live, row_start = _live_adapters(sequences, query_start)
        arrays = [token_ids, positions, query_start, context_lens.astype(np.int32), block_table, kv_slots, logit_rows]
        fed = np.array([(s.pending_row is not None) for s in sequences])
        sources = np.array([s.pending_row for s in sequences if s.pending_row is not None], dtype=np.int64)
        targets = (query_start[1:] - 1)[fed].astype(np.int64)
        lora_slots = self._tables.slots(live)
        tensors = to_device([*arrays, row_start, sources, targets, lora_slots], self._device)
        if len(sources):
            assert pending is not None, "a sequence waits for a token that is not in flight"
            tensors[0].index_copy_(0, tensors[9], pending.index_select(0, tensors[8]))
        forward = ForwardBatch(
            token_ids=tensors[0],
            positions=tensors[1],
            attention=AttentionBatch(
                query_start=tensors[2],
                context_lens=tensors[3],
                block_table=tensors[4],
                kv_slots=tensors[5],
                max_query_len=int(num_tokens.max()),
            ),
            lora=self._tables.batch(live, tensors[10], tensors[7]) if live else None,
            logit_rows=tensors[6],
        )
        return StepBatch(forward, [s for s, ends in zip(sequences, is_sampled.tolist(), strict=True) if ends])

    def forget_adapter(self, digest: str) -> None:
        """Drop what is kept of an adapter that left the pool."""
        self._tables.forget(digest)


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
        if sequence.group != group and sequence.adapter is not None:
            group = sequence.group
            live.append(sequence.adapter)
            first.append(index)
    return live, query_start[[*first, len(sequences)]]
