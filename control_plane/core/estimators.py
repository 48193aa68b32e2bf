"""Moving averages of what was measured."""


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


class PlaceTime:
    """How long a request holds its place on a worker, which by Little's law tells how fast full workers free places."""

    __slots__ = ("_average",)

    def __init__(self) -> None:
        self._average = Ewma()

    def add(self, held_s: float, weight: float) -> None:
        """Take in the time from a request's dispatch to its end there."""
        self._average.add(held_s, weight)

    def wait_s(self, num_places: int, total_places: int) -> float:
        """Expected time until so many places are freed while all are taken; 0 if nothing is known yet."""
        held_s = self._average.value
        if held_s is None or total_places <= 0:
            return 0.0
        return num_places * held_s / total_places
