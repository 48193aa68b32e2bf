"""What is counted of everything the director does; `snapshot` is what the exposition shows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.observation.labels import OTHER
from control_plane.observation.record import Outcome, PlacementReason, RequestRecord
from control_plane.observation.scope import Scope, ScopeMeasures

# What requests of the base model are counted under: no adapter's id is one word in brackets.
BASE: Final = "(base)"
MAX_ERRORS: Final = 200


@dataclass(frozen=True, slots=True)
class Waiting:
    """The requests of one label that wait: how many, and how long the oldest has."""

    num_queued: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class ScopeSnapshot:
    """The measures of a kind by label, and who waits now."""

    kind: str
    measures: Mapping[str, ScopeMeasures]
    waiting: Mapping[str, Waiting]


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """Everything that was counted, as it was at one moment."""

    scopes: tuple[ScopeSnapshot, ...]
    errors: Mapping[tuple[Outcome, str], int]
    placements: Mapping[PlacementReason, int]


class Metrics:
    """Counts what ended, by adapter and by tenant, and where requests were placed; bounded by its labels."""

    def __init__(self, max_adapters: int, max_tenants: int) -> None:
        self._adapters = Scope("adapter", max_adapters)
        self._tenants = Scope("tenant", max_tenants)
        self._errors: Counter[tuple[Outcome, str]] = Counter()
        self._placements: Counter[PlacementReason] = Counter()

    def arrived(self, record: RequestRecord) -> None:
        """Counts traffic, by which labels are given."""
        self._adapters.labels.count(record.adapter_id or BASE)
        self._tenants.labels.count(record.request.tenant)

    def placed(self, record: RequestRecord) -> None:
        """Counts why the request went where it went."""
        self._placements[record.placements[-1].reason] += 1

    def ended(self, record: RequestRecord) -> None:
        """Counts the whole request."""
        assert record.outcome is not None
        self._adapters.add(record.adapter_id or BASE, record)
        self._tenants.add(record.request.tenant, record)
        if record.error_reason:
            error = (record.outcome, record.error_reason)
            # Reasons are few by contract; a worker that breaks it must not fill the memory.
            is_known = error in self._errors or len(self._errors) < MAX_ERRORS
            self._errors[error if is_known else (record.outcome, OTHER)] += 1

    def rotate(self) -> None:
        """Lets labels follow the traffic; call it now and then."""
        self._adapters.rotate()
        self._tenants.rotate()

    def snapshot(self, live: Mapping[str, RequestRecord], now: float) -> MetricsSnapshot:
        """A copy that no longer changes; `live` are the requests in flight."""
        queued = [record for record in live.values() if record.is_queued]
        adapters = [(self._adapters.labels.label(record.adapter_id or BASE), record.arrived_at) for record in queued]
        tenants = [(self._tenants.labels.label(record.request.tenant), record.arrived_at) for record in queued]
        return MetricsSnapshot(
            scopes=(_scope(self._adapters, adapters, now), _scope(self._tenants, tenants, now)),
            errors=dict(self._errors),
            placements=dict(self._placements),
        )


def _scope(scope: Scope, queued: list[tuple[str, float]], now: float) -> ScopeSnapshot:
    counts = Counter(label for label, _ in queued)
    oldest: dict[str, float] = {}
    for label, arrived_at in queued:
        oldest[label] = max(oldest.get(label, 0.0), now - arrived_at)
    measures = {label: measures.copy() for label, measures in scope.measures.items()}
    waiting = {label: Waiting(counts[label], oldest.get(label, 0.0)) for label in {*measures, *counts}}
    return ScopeSnapshot(scope.kind, measures, waiting)
