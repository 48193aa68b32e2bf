"""Prefer workers with few requests, whoever sent them."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Scores by the requests that run and wait on the worker: 1 for none, 1/2 for so many `requests`.

    Counts those of every control plane, as last reported, or our own if they are more.
    """

    name: ClassVar[str] = "queue_depth"
    requests: float = bounded(32.0, 1.0, 1e6)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Falls with the requests there."""
        depth = np.maximum(fleet.num_in_flight, fleet.num_reported)
        return self.requests / (self.requests + depth.astype(np.float64))
