"""Keep workers with pages to spare."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class MinFreePages:
    """Keeps workers where at least a `share` of the page pool holds no KV.

    Pages of adapters count as free: those not in use make room. A worker that has not told its pool's size passes.
    """

    name: ClassVar[str] = "min_free_pages"
    is_lasting: ClassVar[bool] = False
    is_of_request: ClassVar[bool] = False
    share: float = bounded(0.05, 0.0, 1.0)

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether enough of the pool holds no KV."""
        return fleet.pages_without_kv >= self.share * fleet.total_pages
