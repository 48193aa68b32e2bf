"""The S-LoRA paper's early abort, for comparison: it looks at ages and numbers, never at lengths, ranks or costs."""

_NEW, _OLD = 0.7, 0.3


class PaperAbort:
    """Says for each batch whether the newest go first; what waited too long is dropped as admission finds it.

    A batch is what is dispatched at one moment. The newest go first while the moving average of the requests that came
    since the last batch is at least that of the requests that a batch admits. What is dropped counts as having come
    until the batch after it. Both are cut to whole numbers, as in the paper's program.
    """

    def __init__(self) -> None:
        self._arrivals = 1
        self._admitted = 1
        self._num_left = 0
        self._num_dropped = 0
        self._num_dispatched = 0
        self._began_at: float | None = None

    def begin(self, num_waiting: int, now: float) -> bool:
        """A batch may be made of so many requests, for a worker has room: whether the newest go first."""
        if self._began_at != now:
            if self._num_dispatched:
                self._admitted = max(1, int(_NEW * self._num_dispatched + _OLD * self._admitted))
                self._num_dispatched = 0
            num_arrived = num_waiting + self._num_dropped - self._num_left
            self._arrivals = int(_NEW * num_arrived + _OLD * self._arrivals)
            self._num_dropped = 0
            self._began_at = now
        return self.is_newest_first

    @property
    def is_newest_first(self) -> bool:
        """What the last batch was told."""
        return self._arrivals >= self._admitted

    def dropped(self, count: int) -> None:
        """So many requests that waited were given up."""
        self._num_dropped += count

    def dispatched(self, num_left: int) -> None:
        """A request went into the batch, and so many still wait."""
        self._num_dispatched += 1
        self._num_left = num_left
