"""What the director shows of its state, for the fleet view and for metrics."""

from dataclasses import dataclass, field

from control_plane.core.predictor import PredictorSnapshot
from control_plane.core.types import ResidencyTier, TenantAmount, WorkerStatus
from control_plane.core.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """An attached worker; `status.residency` holds the last changes only, `residency` everything, by digest."""

    status: WorkerStatus
    has_lease: bool
    num_in_flight: int
    residency: tuple[tuple[str, ResidencyTier], ...]
    is_draining: bool = False
    prefill_tokens_per_s: float = 0.0
    """0 before it was measured."""


def snapshot_of(worker: Worker, *, with_residency: bool) -> WorkerSnapshot:
    """A worker as it is now."""
    residency = tuple(worker.residency.items()) if with_residency else ()
    return WorkerSnapshot(
        worker.status,
        worker.has_lease,
        len(worker.in_flight),
        residency,
        worker.is_draining,
        worker.prefill_rate.tokens_per_s or 0.0,
    )


@dataclass(frozen=True, slots=True)
class DirectorSnapshot:
    """The queues and the workers, the latter by id."""

    num_queued: int
    num_parked: int
    num_dispatched: int
    workers: tuple[WorkerSnapshot, ...]
    predictor: PredictorSnapshot = field(default_factory=PredictorSnapshot)
    counters: tuple[TenantAmount, ...] = ()
    """Virtual token counters, of the tenants that have any, by tenant."""
    requests_per_s: float = 0.0
    """Taken from the queue lately; 0 unless it is long enough to tell."""
    num_faulty_reports: int = 0
    """Workers' reports that could not be, such as negative numbers; they were brought into range."""
