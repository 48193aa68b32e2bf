"""Keep workers whose pool can hold the adapter."""

import math
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import PlacementRequest, WorkerView
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class AdapterFits:
    """Keeps workers whose page pool is large enough for the adapter's weights with a share `headroom` left for KV.

    A worker that has not told its pool's size passes, as does the base model everywhere.
    """

    name: ClassVar[str] = "adapter_fits"
    is_lasting: ClassVar[bool] = True
    headroom: float = bounded(0.05, 0.0, 0.95)

    def admits(self, request: PlacementRequest, worker: WorkerView) -> bool:
        """Whether the adapter's pages fit in the pool."""
        adapter, status = request.request.adapter, worker.status
        if adapter is None or status.page_size_bytes <= 0:
            return True
        num_pages = math.ceil(adapter.size_bytes / status.page_size_bytes)
        return num_pages <= status.total_pages * (1.0 - self.headroom)
