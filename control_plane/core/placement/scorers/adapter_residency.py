"""Prefer workers that have the adapter."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class AdapterResidency:
    """Scores by where the adapter is on the worker: `pool` in the page pool, `host` in host memory, else 0.

    An adapter of a request in flight counts as in the pool. The base model is everywhere, and scores 1.
    """

    name: ClassVar[str] = "adapter_residency"
    pool: float = bounded(1.0, 0.0, 1.0)
    host: float = bounded(0.5, 0.0, 1.0)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """The score of the adapter's tier."""
        if request.adapter is None:
            return np.ones(fleet.num_rows)
        # In the order of TierLevel.
        return np.array((0.0, self.host, self.pool))[fleet.tiers(request.adapter.digest)]
