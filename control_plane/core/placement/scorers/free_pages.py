"""Prefer workers with room for KV."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats


@dataclass(frozen=True, slots=True)
class FreePages:
    """Scores the share of the page pool that holds no KV; adapters not in use make room.

    A worker that has not told its pool's size scores 0.
    """

    name: ClassVar[str] = "free_pages"

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """The share without KV."""
        return fleet.free_share
