"""Where an adapter belongs: a choice that every control plane makes alike and that few changes of the fleet disturb.

Rendezvous hashing (Thaler and Ravishankar, 1998): each worker has a number for each adapter, and the highest win. If a
worker goes, its adapters alone move, each to the worker that was next; one that comes takes its share from all others.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from control_plane.core.rows import Bools, Rows

_Numbers = npt.NDArray[np.uint64]

# The finaliser of MurmurHash3, which spreads every bit over all others. Its first step may as well be taken by two
# numbers before they are combined, so `number_of` takes it. Its last is left out: it leaves the upper half as it is, so
# only numbers that are alike there would be in another order.
_SHIFT = np.uint64(33)
_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


def number_of(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return number ^ number >> 33


def homes(digest: str, worker_numbers: _Numbers, among: Bools, count: int) -> Rows:
    """The rows of the `count` workers where an adapter belongs, of those in `among`, or of all if these are fewer."""
    numbers = worker_numbers ^ np.uint64(number_of(digest))
    numbers *= _FIRST
    numbers ^= numbers >> _SHIFT
    numbers *= _SECOND
    if count == 1:
        numbers *= among
        best: Rows = numbers.argmax(0, keepdims=True)
        return best[among[best]]
    rows = among.nonzero()[0]
    if count >= len(rows):
        return rows
    return rows[numbers[rows].argpartition(-count)[-count:]]
