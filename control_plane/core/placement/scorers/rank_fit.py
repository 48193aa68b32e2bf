"""Prefer workers that run adapters of a like rank."""

import math
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import PlacementRequest, WorkerView
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class RankFit:
    """Scores how near the adapter's rank is to the ranks in flight: 1 if equal, 0 if `octaves` doublings away.

    Where ranks mix, the batch waits for the largest. The base model, and a worker without adapters in flight, score 1.
    """

    name: ClassVar[str] = "rank_fit"
    octaves: float = bounded(4.0, 1.0, 16.0)

    def score(self, request: PlacementRequest, worker: WorkerView) -> float:
        """Falls with the distance of the ranks' logarithms."""
        adapter, mean = request.request.adapter, worker.mean_log2_rank
        if adapter is None or mean is None:
            return 1.0
        distance = abs(math.log2(max(1, adapter.rank)) - mean)
        return max(0.0, 1.0 - distance / self.octaves)
