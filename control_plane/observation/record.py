"""The life of one request, as it is told to operators and counted in metrics."""

from dataclasses import dataclass, field
from enum import Enum

from control_plane.core.types import Request, ResidencyTier


class Outcome(Enum):
    """How a request ended."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    """Its client went away."""
    REFUSED = "refused"
    """It was never admitted."""
    DROPPED = "dropped"
    """It waited, and was given up before it was sent to a worker."""
    FAILED = "failed"
    """It was on a worker at least once."""


class PlacementReason(Enum):
    """What a request found on the worker that it was sent to."""

    BASE = "base"
    """It needs no adapter."""
    POOL = "pool"
    """Its adapter was in the page pool, or in use by a request in flight."""
    HOST = "host"
    """Its adapter was in host memory, or on its way there."""
    COLD = "cold"
    """Its adapter was not there."""
    REROUTED = "rerouted"
    """An earlier worker was lost or failed it; its output goes on here."""


REASON_OF_TIER = {
    ResidencyTier.POOL: PlacementReason.POOL,
    ResidencyTier.HOST: PlacementReason.HOST,
    ResidencyTier.NONE: PlacementReason.COLD,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """One decision: where a request was sent, when, and what it found there."""

    worker_id: str
    at: float
    reason: PlacementReason


@dataclass(slots=True)
class RequestRecord:
    """What happened to a request so far; times are those of the director's clock."""

    request: Request
    arrived_at: float
    policy_digest: str
    num_prompt_tokens: int
    accepted_at: float | None = None
    placements: list[Placement] = field(default_factory=list)
    first_token_at: float | None = None
    num_output_tokens: int = 0
    ended_at: float | None = None
    outcome: Outcome | None = None
    # Of a request that was refused, dropped or failed.
    error_reason: str = ""
    error_message: str = ""

    @property
    def adapter_id(self) -> str:
        """Its adapter; empty for the base model."""
        return self.request.adapter.adapter_id if self.request.adapter else ""

    @property
    def state(self) -> str:
        """Where it is, or how it ended."""
        if self.outcome is not None:
            return self.outcome.value
        return "running" if self.placements else "queued"

    @property
    def is_queued(self) -> bool:
        """Whether it was admitted and was not sent to a worker yet."""
        return self.accepted_at is not None and not self.placements and self.outcome is None
