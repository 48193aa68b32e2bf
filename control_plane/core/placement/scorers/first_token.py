"""Prefer workers where the first token is expected soonest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded
from control_plane.core.types import ResidencyTier

# In the order of TierLevel.
_TIERS = (ResidencyTier.NONE, ResidencyTier.HOST, ResidencyTier.POOL)


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Scores the expected time to the first token: 1 for none, 1/2 for so many `seconds`.

    Expected are the prompts that wait on the worker and the request's own at the rate that the worker was measured at,
    then what first tokens take beyond that, and what adapters of such a size take from where this one is. A worker
    whose rate is not known counts as fast as the mean of the others.
    """

    name: ClassVar[str] = "first_token"
    seconds: float = bounded(1.0, 0.001, 3600.0)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Falls with the time expected."""
        expected = fleet.pending_prefill_tokens + request.num_prefill_tokens
        s_per_token = fleet.prefill_s_per_token
        num_known = np.count_nonzero(s_per_token)
        if 0 < num_known < len(fleet.order):
            s_per_token = np.where(s_per_token > 0, s_per_token, num_known / fleet.prefill_tokens_per_s.sum())
        expected *= s_per_token
        adapter, service_s = request.adapter, fleet.predictor.service_s
        if adapter is None:
            expected += service_s(request.request, 0.0, ResidencyTier.POOL)
        else:
            beyond_s = np.array([service_s(request.request, 0.0, tier) for tier in _TIERS])
            expected += beyond_s[fleet.tiers(adapter.digest)]
        return self.seconds / (self.seconds + expected)
