"""Which rows of the fleet's columns something is true of, for very many things that are true of few rows each."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

K = TypeVar("K")


class RowSets(Generic[K]):
    """A sorted array of rows for each key; a key without rows takes no room."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[K, array[int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows)

    def add(self, key: K, row: int) -> None:
        """Put a row in a key's set."""
        rows = self._rows.get(key)
        if rows is None:
            self._rows[key] = array("q", (row,))
            return
        index = bisect_left(rows, row)
        if index == len(rows) or rows[index] != row:
            rows.insert(index, row)

    def discard(self, key: K, row: int) -> None:
        """Take a row out of a key's set, if it is there."""
        rows = self._rows.get(key)
        if rows is None:
            return
        index = bisect_left(rows, row)
        if index < len(rows) and rows[index] == row:
            del rows[index]
            if not rows:
                del self._rows[key]

    def put(self, key: K, row: int, *, is_in: bool) -> None:
        """Add or discard."""
        if is_in:
            self.add(key, row)
        else:
            self.discard(key, row)

    def count(self, key: K) -> int:
        """How many rows a key has."""
        rows = self._rows.get(key)
        return len(rows) if rows is not None else 0

    def of(self, key: K) -> Rows | None:
        """A key's rows, to be used before the sets change; None if there are none."""
        rows = self._rows.get(key)
        return np.frombuffer(rows, dtype=np.intp) if rows is not None else None

    def mask(self, key: K, num_rows: int) -> Bools:
        """Whether each row is in a key's set."""
        found = np.zeros(num_rows, dtype=np.bool_)
        rows = self.of(key)
        if rows is not None:
            found[rows] = True
        return found
