"""Keep workers that report and do not fail."""

import math
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FAILURE_HALF_LIFE_S, FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class Health:
    """Keeps workers that reported within `max_silence_s`, and failed fewer than `max_failures` requests lately.

    Half of the failures are forgotten every 30 seconds, so a worker that failed is tried again. Failures that are a
    request's own do not count.
    """

    name: ClassVar[str] = "health"
    is_lasting: ClassVar[bool] = True
    is_of_request: ClassVar[bool] = False
    max_silence_s: float = bounded(10.0, 0.1, 3600.0)
    max_failures: float = bounded(8.0, 1.0, 1e6)

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether the worker is heard of, and serves what it takes."""
        # From one failure back to as many as are allowed.
        allowed_s = FAILURE_HALF_LIFE_S * math.log2(self.max_failures)
        return (fleet.reported_at >= request.now - self.max_silence_s) & (fleet.forgiven_at < request.now + allowed_s)
