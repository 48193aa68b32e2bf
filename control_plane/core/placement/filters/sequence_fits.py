"""Keep workers whose pool can hold the whole sequence."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools


@dataclass(frozen=True, slots=True)
class SequenceFits:
    """Keeps workers whose page pool can hold the KV of the prompt and of all the output, with the adapter beside it.

    Else the sequence would be preempted for ever. A worker that has not told its pool's size passes.
    """

    name: ClassVar[str] = "sequence_fits"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = True

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether KV and adapter fit in the pool together."""
        num_pages = np.ceil(request.num_tokens / fleet.block_size)
        if request.adapter is not None:
            num_pages += np.ceil(request.adapter.size_bytes / fleet.page_size_bytes)
        return num_pages <= fleet.total_pages
