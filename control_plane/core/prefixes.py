"""Which workers computed the beginning of a prompt lately."""

import hashlib
from array import array
from collections import OrderedDict

import numpy as np

from control_plane.core.rows import Floats
from control_plane.core.types import Request

# Prompts are compared after 32, 64, 128, ... tokens: a few comparisons find half of what two have in common, or more.
_FIRST_TOKENS = 32
_MAX_TOKENS = 4096
_MAX_PREFIXES = 65_536
_MAX_WORKERS = 4


class PrefixMemory:
    """Remembers, for so many prefixes used lately, the workers that they went to last.

    A worker is remembered by a number of its own, so that a row's next worker does not inherit what it never computed.
    """

    def __init__(self) -> None:
        self._workers_of: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._row_of: dict[int, int] = {}
        self._worker_at: dict[int, int] = {}
        self._num_attached = 0
        self._last: tuple[Request, list[tuple[int, bytes]]] | None = None

    def __len__(self) -> int:
        return len(self._workers_of)

    def attach(self, row: int) -> None:
        """A worker got a row."""
        self._num_attached += 1
        self._row_of[self._num_attached] = row
        self._worker_at[row] = self._num_attached

    def detach(self, row: int) -> None:
        """The row's worker is gone."""
        del self._row_of[self._worker_at.pop(row)]

    def note(self, request: Request, row: int) -> None:
        """A request went to a worker."""
        worker = self._worker_at[row]
        for _, key in self._prefixes(request):
            others = (each for each in self._workers_of.get(key, ()) if each != worker and each in self._row_of)
            self._workers_of[key] = (worker, *others)[:_MAX_WORKERS]
            self._workers_of.move_to_end(key)
        while len(self._workers_of) > _MAX_PREFIXES:
            self._workers_of.popitem(last=False)

    def shares(self, request: Request, num_rows: int) -> Floats:
        """The share of the prompt that each worker computed lately, as far as is known."""
        shares = np.zeros(num_rows)
        num_tokens = len(request.prompt_token_ids)
        for length, key in self._prefixes(request):
            workers = self._workers_of.get(key)
            if workers is None:
                break
            for worker in workers:
                row = self._row_of.get(worker)
                if row is not None:
                    shares[row] = length / num_tokens
        return shares

    def _prefixes(self, request: Request) -> list[tuple[int, bytes]]:
        """The prompt's beginnings that are compared, shortest first, each with its key."""
        # A request is asked about, and noted right after.
        if self._last is None or self._last[0] is not request:
            self._last = request, _keys(request)
        return self._last[1]


def _keys(request: Request) -> list[tuple[int, bytes]]:
    # KV depends on the adapter as well.
    running = hashlib.blake2b(request.adapter.digest.encode() if request.adapter else b"", digest_size=8)
    tokens = array("q", request.prompt_token_ids[:_MAX_TOKENS])
    keys, start, end = [], 0, _FIRST_TOKENS
    while end <= len(tokens):
        running.update(tokens[start:end])
        keys.append((end, running.digest()))
        start, end = end, 2 * end
    return keys
