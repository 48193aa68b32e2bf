"""A forward batch's tables on the host."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.types import BatchSize


@dataclass(frozen=True, slots=True)
class Tables:
    """The numbers of a batch; `ForwardBatch`, `AttentionBatch` and `LoraBatch` say what each is."""

    token_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    query_start: NDArray[np.int32]
    context_lens: NDArray[np.int32]
    kv_slots: NDArray[np.int64]
    logit_rows: NDArray[np.int64]
    row_start: NDArray[np.int32]
    logit_start: NDArray[np.int32]  # `[num_live + 1]`; as `row_start`, of the logit rows
    lora_slots: NDArray[np.int32]
    block_table: NDArray[np.int32]

    @classmethod
    def nobodys(cls, size: BatchSize) -> "Tables":
        """Those of a batch of fixed size in which no sequence owns a row."""
        rows, seqs = np.zeros(size.num_rows, dtype=np.int64), np.zeros(size.num_seqs, dtype=np.int32)
        starts = np.zeros(size.num_seqs + 1, dtype=np.int32)
        no_blocks = np.zeros((0, 0), dtype=np.int32)
        logit_rows = np.zeros(size.num_seqs, dtype=np.int64)
        return cls(rows, rows, starts, seqs, rows - 1, logit_rows, starts, starts, seqs, no_blocks)

    def of_fixed_size(self) -> tuple[NDArray[Any], ...]:
        """Those whose sizes a batch of fixed size fixes: all but the block table."""
        return (
            self.token_ids,
            self.positions,
            self.query_start,
            self.context_lens,
            self.kv_slots,
            self.logit_rows,
            self.row_start,
            self.logit_start,
            self.lora_slots,
        )

    def fillers(self) -> tuple[int, ...]:
        """What fills each of them up, so that the sequences and adapters that are added own no row and no token."""
        last_row, last_logit = int(self.query_start[-1]), int(self.logit_start[-1])
        return 0, 0, last_row, 0, -1, 0, last_row, last_logit, 0
