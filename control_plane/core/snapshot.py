"""What the director shows of its state, for the fleet view and for metrics."""

from dataclasses import dataclass

from control_plane.core.types import ResidencyTier, WorkerStatus


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """An attached worker; `status.residency` holds the last changes only, `residency` everything, by digest."""

    status: WorkerStatus
    has_lease: bool
    num_in_flight: int
    residency: tuple[tuple[str, ResidencyTier], ...]


@dataclass(frozen=True, slots=True)
class DirectorSnapshot:
    """The queues and the workers, the latter by id."""

    num_queued: int
    num_parked: int
    num_dispatched: int
    workers: tuple[WorkerSnapshot, ...]
