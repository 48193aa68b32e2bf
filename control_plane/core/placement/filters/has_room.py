"""Keep workers with a free place and pages."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools


@dataclass(frozen=True, slots=True)
class HasRoom:
    """Keeps workers that hold fewer requests than their window, and whose pool is not promised. Always asked."""

    name: ClassVar[str] = "has_room"
    is_lasting: ClassVar[bool] = False
    is_of_request: ClassVar[bool] = False

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether a place is free."""
        return fleet.has_room
