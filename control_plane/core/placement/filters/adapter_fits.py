"""Keep workers whose pool can hold the adapter."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class AdapterFits:
    """Keeps workers whose page pool is large enough for the adapter's weights with a share `headroom` left for KV.

    A worker that has not told its pool's size passes, as does the base model everywhere.
    """

    name: ClassVar[str] = "adapter_fits"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = True
    headroom: float = bounded(0.05, 0.0, 0.95)

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the adapter's pages fit in the pool."""
        if request.adapter is None:
            return np.ones(fleet.num_rows, dtype=np.bool_)
        num_pages = np.ceil(request.adapter.size_bytes / fleet.page_size_bytes)
        return num_pages <= fleet.total_pages * (1.0 - self.headroom)
