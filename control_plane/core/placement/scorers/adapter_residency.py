"""Prefer workers that have the adapter."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import PlacementRequest, WorkerView
from control_plane.core.settings import bounded
from control_plane.core.types import ResidencyTier


@dataclass(frozen=True, slots=True)
class AdapterResidency:
    """Scores by where the adapter is on the worker: `pool` in the page pool, `host` in host memory, else 0.

    An adapter of a request in flight counts as in the pool. The base model is everywhere, and scores 1.
    """

    name: ClassVar[str] = "adapter_residency"
    pool: float = bounded(1.0, 0.0, 1.0)
    host: float = bounded(0.5, 0.0, 1.0)

    def score(self, request: PlacementRequest, worker: WorkerView) -> float:
        """The score of the adapter's tier."""
        adapter = request.request.adapter
        if adapter is None:
            return 1.0
        tier = worker.tier(adapter.digest)
        if tier is ResidencyTier.POOL:
            return self.pool
        return self.host if tier is ResidencyTier.HOST else 0.0
