"""Moving averages of what was measured."""

# One measurement of a queue's drain: so long and so much at the least, or so long in any case.
_LEAST_DRAIN_S = 0.5
_LEAST_DRAINED = 4
_MOST_DRAIN_S = 5.0
_DRAIN_SMOOTHING = 0.3
# How much of the fastest drain is believed after another measurement.
_MOST_DECAY = 0.98


class Ewma:
    """An exponentially weighted moving average; `value` is None before the first measurement."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def add(self, measured: float, weight: float) -> None:
        """Take one measurement in, with a weight in (0, 1]."""
        self.value = measured if self.value is None else self.value + weight * (measured - self.value)


class PrefillRate:
    """Prompt tokens a worker computes each second while it has some to compute.

    Idle time says nothing of what a worker can do, so only an interval that begins and ends with work pending counts.
    """

    __slots__ = ("_average", "_last_at", "_last_count", "_was_pending")

    def __init__(self) -> None:
        self._average = Ewma()
        self._last_at = 0.0
        self._last_count = 0
        self._was_pending = False

    @property
    def tokens_per_s(self) -> float | None:
        """The rate, None before it was measured."""
        return self._average.value

    def add(self, num_prefill_tokens: int, *, is_pending: bool, now: float, weight: float) -> None:
        """Take in a worker's running count of prompt tokens computed."""
        elapsed, computed = now - self._last_at, num_prefill_tokens - self._last_count
        if self._was_pending and is_pending and elapsed > 0 and computed > 0:
            self._average.add(computed / elapsed, weight)
        self._last_at, self._last_count, self._was_pending = now, num_prefill_tokens, is_pending


class DrainRate:
    """How fast a queue that never was empty is served, in whatever unit is counted.

    It begins anew whenever the queue has been empty: what was measured while every worker was full says nothing of
    workers that have room again.
    """

    __slots__ = ("_average", "_drained", "_num_drained", "_since", "most_per_s")

    def __init__(self) -> None:
        self._average = Ewma()
        self.most_per_s: float | None = None
        """The fastest lately, None before it was measured."""
        self._since: float | None = None
        self._drained = 0.0
        self._num_drained = 0

    @property
    def per_s(self) -> float | None:
        """The rate, None before it was measured."""
        return self._average.value

    def drained(self, amount: float) -> None:
        """So much was served."""
        self._drained += amount
        self._num_drained += 1

    def observe(self, now: float, *, is_empty: bool) -> None:
        """Look at the queue after each change, and as time passes."""
        if is_empty:
            self._average = Ewma()
            self.most_per_s = self._since = None
            return
        if self._since is not None:
            elapsed = now - self._since
            is_enough = elapsed >= _LEAST_DRAIN_S and self._num_drained >= _LEAST_DRAINED
            if not is_enough and elapsed < _MOST_DRAIN_S:
                return
            per_s = self._drained / elapsed
            self._average.add(per_s, _DRAIN_SMOOTHING)
            self.most_per_s = max(per_s, (self.most_per_s or 0.0) * _MOST_DECAY)
        self._since = now
        self._drained = 0.0
        self._num_drained = 0
