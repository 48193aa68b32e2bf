"""Keep workers whose pool can hold the whole sequence."""

import math
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import PlacementRequest, WorkerView


@dataclass(frozen=True, slots=True)
class SequenceFits:
    """Keeps workers whose page pool can hold the KV of the prompt and of all the output, with the adapter beside it.

    Else the sequence would be preempted for ever. A worker that has not told its pool's size passes.
    """

    name: ClassVar[str] = "sequence_fits"
    is_lasting: ClassVar[bool] = True

    def admits(self, request: PlacementRequest, worker: WorkerView) -> bool:
        """Whether KV and adapter fit in the pool together."""
        adapter, status = request.request.adapter, worker.status
        if status.page_size_bytes <= 0 or status.block_size <= 0:
            return True
        num_pages = math.ceil(request.num_tokens / status.block_size)
        if adapter is not None:
            num_pages += math.ceil(adapter.size_bytes / status.page_size_bytes)
        return num_pages <= status.total_pages
