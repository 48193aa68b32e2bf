"""Prefer workers that run adapters of a like rank."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class RankFit:
    """Scores how near the adapter's rank is to the ranks in flight: 1 if equal, 0 if `octaves` doublings away.

    Where ranks mix, the batch waits for the largest. The base model, and a worker without adapters in flight, score 1.
    """

    name: ClassVar[str] = "rank_fit"
    octaves: float = bounded(4.0, 1.0, 16.0)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Falls with the distance of the ranks' logarithms."""
        if request.adapter is None:
            return np.ones(fleet.num_rows)
        distance = np.abs(math.log2(max(1, request.adapter.rank)) - fleet.mean_log2_rank)
        # fmin and fmax pass over the NaN of a worker without ranks.
        return np.fmax(0.0, np.fmin(1.0, 1.0 - distance / self.octaves))
