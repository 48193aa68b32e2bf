"""Which rows of a batch belong to which sequence, and where its KV lies in the page pool."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class AttentionBatch:
    """The sequences of one step, in row order.

    Sequence `s` owns rows `[query_start[s], query_start[s + 1])`: its last tokens, whose keys and values are written
    to the pool before attention runs. One row is a decode; several are a chunk of a prompt. A sequence that owns no row
    fills a place in a batch of fixed size, and costs nothing; nor do rows after the last sequence's.

    Attributes:
        query_start: `[num_seqs + 1]` int32.
        context_lens: `[num_seqs]` int32; tokens of the sequence in the pool, this step's included.
        block_table: `[num_seqs, max_blocks]` int32; its pages in order; what is behind them is not read.
        kv_slots: `[num_rows]` int64; where each row's key and value go: `page * block_size + offset`.
        max_query_len: No sequence owns more rows, as the host knows without asking the device; None: not known.
        derived: What an op made of the tables, kept so that it is made once a step and not in every layer.
    """

    query_start: Tensor
    context_lens: Tensor
    block_table: Tensor
    kv_slots: Tensor
    max_query_len: int | None = None
    derived: dict[Hashable, Any] = field(default_factory=dict, repr=False)
