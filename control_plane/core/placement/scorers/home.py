"""Prefer the workers where the adapter belongs."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.homes import homes
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class Home:
    """Scores 1 where the adapter belongs, else 0: one worker for a cold adapter, more the more it is asked for.

    Where that is follows from the ids of adapter and workers alone, so all control planes agree, and an adapter comes
    back to where it was. A worker that the filters refuse, or with more than `bound` times the mean load and `slack`
    requests besides, is passed over, and the next one is always the same: consistent hashing with bounded loads
    (arXiv 1608.01350). How many homes a hot adapter gets is set under `replication`. The base model has none, and
    scores 1.
    """

    name: ClassVar[str] = "home"
    bound: float = bounded(1.25, 1.0, 100.0)
    slack: float = bounded(1.0, 0.0, 1e6)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Whether each worker is one of its homes."""
        if request.adapter is None:
            return np.ones(fleet.num_rows)
        digest = request.adapter.digest
        scores = np.zeros(fleet.num_rows)
        num_left = np.count_nonzero(among)
        if num_left > 1:
            mean = fleet.load.dot(among) / num_left
            among = among & ((fleet.load - self.bound * mean) * fleet.window <= self.slack)
        scores[homes(digest, fleet.numbers, among, fleet.demand.num_workers(digest, request.now))] = 1.0
        return scores
