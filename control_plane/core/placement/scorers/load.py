"""Prefer workers with free places."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats


@dataclass(frozen=True, slots=True)
class Load:
    """Scores the free share of the worker's window: 1 idle, 0 full."""

    name: ClassVar[str] = "load"

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """The free share."""
        return 1.0 - fleet.load
