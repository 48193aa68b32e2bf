"""Sequences that wait to run, in the order in which they should start."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter

from worker.engine.sequence import Sequence

_ORDER = attrgetter("waiting_order")


class WaitingQueue:
    """A sorted list: priority first, then those that ran before, then arrival."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def num_tokens(self) -> int:
        """Tokens to compute before all of them can produce output."""
        return self._num_tokens

    def head(self, count: int) -> Iterator[Sequence]:
        """The first `count` sequences; the queue must not change meanwhile."""
        return islice(self._sequences, count)

    def push(self, sequence: Sequence) -> None:
        """Add a sequence at its place."""
        insort(self._sequences, sequence, key=_ORDER)
        self._num_tokens += sequence.num_tokens

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        index = bisect_left(self._sequences, sequence.waiting_order, key=_ORDER)
        assert self._sequences[index] is sequence
        del self._sequences[index]
        self._num_tokens -= sequence.num_tokens
