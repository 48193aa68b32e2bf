"""The S-LoRA paper's early abort, for comparison: it looks at ages and numbers, never at lengths, ranks or costs."""

_NEW, _OLD = 0.7, 0.3


class PaperAbort:
    """Says for each batch whether the newest go first; what waited too long is dropped as admission finds it.

    A batch is what is dispatched at one moment. The newest go first while the moving average of the requests that came
    since the last batch is at least that of the requests that a batch admits. Both are cut to whole numbers, as in the
    paper's program.
    """

    def __init__(self) -> None:
        self._arrivals = 1
        self._admitted = 1
        self._num_left = 0
        self._num_dispatched = 0
        self._began_at: float | None = None

    def begin(self, num_waiting: int, now: float) -> bool:
        """A batch is made of so many requests: whether the newest go first."""
        if self._began_at != now:
            if self._num_dispatched:
                self._admitted = max(1, int(_NEW * self._num_dispatched + _OLD * self._admitted))
                self._num_dispatched = 0
            self._arrivals = int(_NEW * (num_waiting - self._num_left) + _OLD * self._arrivals)
            self._began_at = now
        return self._arrivals >= self._admitted

    def dispatched(self, num_left: int) -> None:
        """A request went into the batch, and so many still wait."""
        self._num_dispatched += 1
        self._num_left = num_left
