"""What several control planes count together: what tenants got, and what they used of their quotas."""

from control_plane.core.fairness import Fairness, VirtualTokenCounters
from control_plane.core.quotas import TokenQuotas
from control_plane.core.types import TenantsCharged, TenantTotalsRead


class TenantSharing:
    """Hands out what was counted here, one lot at a time, and takes in the totals."""

    def __init__(self, quotas: TokenQuotas) -> None:
        self._quotas = quotas
        self._number = 0
        self._is_shared = False
        self._is_out = False

    def charged(self, fairness: Fairness) -> TenantsCharged | None:
        """What to add to the totals; None if nothing is to be, or the last lot is still under way."""
        if not self._is_shared or self._is_out:
            return None
        counters = fairness.cut() if isinstance(fairness, VirtualTokenCounters) else ()
        used = self._quotas.cut()
        if not counters and not used:
            return None
        self._number += 1
        self._is_out = True
        return TenantsCharged(self._number, counters, used)

    def read(self, event: TenantTotalsRead, fairness: Fairness, now: float) -> None:
        """Take the totals in."""
        is_cut_included = self._is_out and event.number == self._number
        if isinstance(fairness, VirtualTokenCounters):
            fairness.merge(event.counters, is_cut_included=is_cut_included)
        self._quotas.merge(event.used_tokens, now, is_cut_included=is_cut_included)
        self._is_shared = True
        self._is_out = self._is_out and not is_cut_included
