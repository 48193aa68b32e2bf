"""A filter for workers that take only what starts at once: it asks them, as a scheduler inside a worker would."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.policy import Policy
from control_plane.core.rows import Bools
from control_plane.simulation.machine import Machine


@dataclass(frozen=True, slots=True)
class CouldStart:
    """Admits the workers whose next batch has room for the request."""

    machines: Mapping[str, Machine]

    name: ClassVar[str] = "could_start"
    is_lasting: ClassVar[bool] = False
    is_of_request: ClassVar[bool] = True

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Each row's verdict."""
        found = np.zeros(fleet.num_rows, dtype=np.bool_)
        for row in fleet.order[fleet.has_room[fleet.order]].tolist():
            found[row] = self.machines[fleet.worker_id(row)].could_start(request.request)
        return found


def with_filter(policy: Policy, added: CouldStart) -> Policy:
    """The policy with one more filter in every profile."""
    placement = policy.placement
    default = replace(placement.default, filters=(*placement.default.filters, added))
    selected = tuple(
        replace(each, profile=replace(each.profile, filters=(*each.profile.filters, added)))
        for each in placement.selected
    )
    return replace(policy, placement=PlacementPolicy(default, selected))
