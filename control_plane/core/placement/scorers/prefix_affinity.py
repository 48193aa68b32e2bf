"""Prefer workers that computed the beginning of the prompt."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats


@dataclass(frozen=True, slots=True)
class PrefixAffinity:
    """Scores the share of the prompt that went to the worker lately, with the same adapter: its KV may still be there.

    Prompts are compared at 32, 64, 128, ... tokens up to 4,096, and 65,536 beginnings are remembered.
    """

    name: ClassVar[str] = "prefix_affinity"

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """The share known to be there."""
        return fleet.prefixes.shares(request.request, fleet.num_rows)
