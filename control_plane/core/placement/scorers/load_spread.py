"""Prefer the least loaded of the workers at hand."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats


@dataclass(frozen=True, slots=True)
class LoadSpread:
    """Scores the load against that of the others: 1 for the least loaded worker left, 0 for the most loaded.

    Evens out differences, however small, where `load` counts them as what they are.
    """

    name: ClassVar[str] = "load_spread"

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Where the worker lies between the extremes; 1 for all if they are one."""
        loads = fleet.load[among]
        low, high = (float(loads.min()), float(loads.max())) if loads.size else (0.0, 0.0)
        if high <= low:
            return np.ones(fleet.num_rows)
        return np.maximum(0.0, np.minimum(1.0, (high - fleet.load) / (high - low)))
