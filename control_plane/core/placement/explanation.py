"""What a decision was, and everything that led to it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """What one scorer said of a worker."""

    scorer: str
    weight: float
    value: float


@dataclass(frozen=True, slots=True)
class WorkerVerdict:
    """What a policy said of a worker: the filters that refused it, its scores and their weighted mean."""

    worker_id: str
    refused_by: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole decision. `worker_id` is None if every worker was refused; `emptied_by` refused the last one left."""

    worker_id: str | None
    picker: str
    verdicts: tuple[WorkerVerdict, ...] = ()
    profile: str = "default"
    emptied_by: str | None = None
