"""What is counted for each adapter, and for each tenant."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from control_plane.observation.labels import OTHER, TopLabels
from control_plane.observation.record import Outcome, PlacementReason, RequestRecord

# Upper bounds in seconds; times of first tokens and of waiting, and times between tokens.
LATENCY_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Error reasons told apart under one label.
MAX_REASONS: Final = 32
TOKEN_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0)


class Histogram:
    """Counts by upper bound; the last count is of what exceeds all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Histogram":
        """As it is now."""
        twin = Histogram(self.bounds)
        twin.counts, twin.total = list(self.counts), self.total
        return twin


@dataclass(slots=True)
class ScopeMeasures:
    """The measures of one label."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    placements: Counter[PlacementReason] = field(default_factory=Counter)
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    queue: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    first_token: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS))
    output_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS))

    def add(self, record: RequestRecord) -> None:
        """Counts a request that ended."""
        assert record.outcome is not None
        assert record.ended_at is not None
        self.outcomes[record.outcome] += 1
        if record.error_reason:
            # Reasons are few by contract; a worker that breaks it must not fill the memory.
            is_known = record.error_reason in self.errors or len(self.errors) < MAX_REASONS
            self.errors[record.error_reason if is_known else OTHER] += 1
        self.placements.update(placement.reason for placement in record.placements)
        if not record.placements:
            return
        self.num_prompt_tokens += record.num_prompt_tokens
        self.num_output_tokens += record.num_output_tokens
        self.queue.add(record.placements[0].at - record.arrived_at)
        if record.first_token_at is None:
            return
        self.first_token.add(record.first_token_at - record.arrived_at)
        if record.num_output_tokens > 1:
            self.output_token.add((record.ended_at - record.first_token_at) / (record.num_output_tokens - 1))

    def copy(self) -> "ScopeMeasures":
        """As they are now."""
        return ScopeMeasures(
            Counter(self.outcomes),
            Counter(self.errors),
            Counter(self.placements),
            self.num_prompt_tokens,
            self.num_output_tokens,
            self.queue.copy(),
            self.first_token.copy(),
            self.output_token.copy(),
        )


class Scope:
    """All labels of one kind, `adapter` or `tenant`; a label that is lost takes its counts with it."""

    def __init__(self, kind: str, max_labels: int) -> None:
        self.kind = kind
        self.labels = TopLabels(max_labels)
        self.measures: dict[str, ScopeMeasures] = {}

    def add(self, name: str, record: RequestRecord) -> None:
        """Counts a request that ended under a name."""
        label = self.labels.label(name)
        if label not in self.measures:
            self.measures[label] = ScopeMeasures()
        self.measures[label].add(record)

    def rotate(self) -> None:
        """Lets labels follow the traffic."""
        for label in self.labels.rotate() - {OTHER}:
            self.measures.pop(label, None)
