"""Keep workers that hold a lease."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools


@dataclass(frozen=True, slots=True)
class Lease:
    """Keeps workers whose lease has not run out. Always asked."""

    name: ClassVar[str] = "lease"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = False

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the lease is there."""
        return fleet.has_lease
