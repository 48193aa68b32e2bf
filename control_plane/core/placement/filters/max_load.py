"""Keep workers that are not too busy."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class MaxLoad:
    """Keeps workers with less than a share `load` of their window taken; the rest of the window stays free."""

    name: ClassVar[str] = "max_load"
    is_lasting: ClassVar[bool] = False
    is_of_request: ClassVar[bool] = False
    load: float = bounded(0.9, 0.01, 1.0)

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the worker is below the load."""
        return fleet.load < self.load
