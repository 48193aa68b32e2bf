"""Prefer workers that are busy already."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class Consolidate:
    """Scores the load up to `target`, and what is free above it: fills workers one after the other.

    Full batches cost least for each token, and idle workers can be taken away.
    """

    name: ClassVar[str] = "consolidate"
    target: float = bounded(0.8, 0.05, 0.95)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Rises to 1 at the target load, and falls to 0 at the full window."""
        return np.minimum(fleet.load / self.target, (1.0 - fleet.load) / (1.0 - self.target))
