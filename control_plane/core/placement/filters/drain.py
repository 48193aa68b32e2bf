"""Keep workers that stay in service."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools


@dataclass(frozen=True, slots=True)
class Drain:
    """Keeps workers that no operator takes out of service, and that do not so themselves. Always asked."""

    name: ClassVar[str] = "drain"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = False

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the worker is not draining."""
        return ~fleet.is_draining
