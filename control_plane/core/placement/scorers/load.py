"""Prefer workers with free places."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Floats


@dataclass(frozen=True, slots=True)
class Load:
    """Scores the free share of the worker's window: 1 idle, 0 full."""

    name: ClassVar[str] = "load"

    def score(self, request: PlacementRequest, fleet: FleetColumns) -> Floats:  # noqa: ARG002  (any request)
        """The free share."""
        return 1.0 - fleet.load
