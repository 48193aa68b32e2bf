"""Whose turn it is among tenants."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from control_plane.core.policy import FairnessScheme, FairnessSettings
from control_plane.core.types import TenantAmount

OrderKey = tuple[int, int, float, int]
"""Least first: whether it was never dispatched (0 or 1), negated priority, turn, arrival number; the last two negated
where the newest go first."""

# Tenants whose counters are kept although they have nothing waiting; beyond it those are forgotten that lag behind.
_MAX_IDLE_TENANTS = 10_000


class Fairness(Protocol):
    """Chooses among the tenants that have requests waiting, and learns of the work done for each."""

    settings: FairnessSettings

    @property
    def counters(self) -> Mapping[str, float]:
        """What each tenant got, as far as it counts."""

    def counter(self, tenant: str) -> float:
        """What a tenant got, as far as it counts."""

    def next_tenant(self, heads: Mapping[str, OrderKey]) -> str:
        """The tenant whose turn it is; `heads` holds each waiting tenant's first request, and is not empty."""

    def ahead(self, tenant: str, before: Mapping[str, float], total: float) -> float:
        """The work that is done before a new request of a tenant.

        `before` is the work of each tenant that has requests waiting, as far as the requests' own order puts it first;
        `total` is all work that waits.
        """

    def joined(self, tenant: str, waiting: Collection[str]) -> None:
        """A tenant that had nothing waiting has; `waiting` are the other tenants that do."""

    def left(self, tenant: str) -> None:
        """A tenant has nothing waiting any more."""

    def charge(self, tenant: str, *, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """A tenant's request was dispatched with a prompt, or produced output."""


class ArrivalOrder:
    """No fairness: the requests' own order over all tenants."""

    def __init__(self, settings: FairnessSettings) -> None:
        self.settings = settings

    @property
    def counters(self) -> Mapping[str, float]:
        """None."""
        return {}

    def counter(self, tenant: str) -> float:
        """Nothing, whoever it is."""
        del tenant
        return 0.0

    def next_tenant(self, heads: Mapping[str, OrderKey]) -> str:
        """The tenant with the least key; keys never tie, for each holds a request's number."""
        return min(heads, key=heads.__getitem__)

    def ahead(self, tenant: str, before: Mapping[str, float], total: float) -> float:
        """Everybody's."""
        del tenant, total
        return sum(before.values())

    def joined(self, tenant: str, waiting: Collection[str]) -> None:
        """Nothing to bring up to date."""

    def left(self, tenant: str) -> None:
        """Nothing to remember."""

    def charge(self, tenant: str, *, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Counts nothing."""


class VirtualTokenCounters:
    """Virtual token counters (arXiv 2401.00588): the tenant that got least goes next.

    A tenant's counter is the weighted tokens that it got by its weight. One that comes back after a pause is lifted to
    the least counter of those waiting, so that a pause saves up no right. The counters may be shared by several control
    planes: what was counted here since the last `cut` is added to the totals that all have, and `merge` takes in
    the totals. Between two backlogged tenants of equal weight the service never differs by more than twice the larger
    of a prompt's weight and that of the tokens in flight.
    """

    def __init__(self, settings: FairnessSettings) -> None:
        self._weights: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        # What was counted here: cut and not merged yet, and since the last cut.
        self._cut: dict[str, float] = {}
        self._fresh: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._last_left: str | None = None
        self.settings = settings

    @property
    def settings(self) -> FairnessSettings:
        """What tokens and tenants weigh."""
        return self._settings

    @settings.setter
    def settings(self, settings: FairnessSettings) -> None:
        self._settings = settings
        self._weights = {tenant.name: tenant.weight for tenant in settings.tenants}

    def counter(self, tenant: str) -> float:
        """A tenant's virtual token counter."""
        return self._totals.get(tenant, 0.0) + self._cut.get(tenant, 0.0) + self._fresh.get(tenant, 0.0)

    @property
    def counters(self) -> dict[str, float]:
        """Every counter, by tenant."""
        return {tenant: self.counter(tenant) for tenant in {**self._totals, **self._cut, **self._fresh}}

    def next_tenant(self, heads: Mapping[str, OrderKey]) -> str:
        """One with a request that had a place, else with the least counter; of equals whose request goes first."""
        if len(heads) == 1:
            return next(iter(heads))
        return min(heads, key=lambda tenant: (heads[tenant][0], self.counter(tenant), heads[tenant]))

    def ahead(self, tenant: str, before: Mapping[str, float], total: float) -> float:
        """Its own, and what the others get meanwhile by their weights, who have no more than all that waits."""
        own = self._weight(tenant)
        others = sum(self._weight(other) for other in before if other != tenant)
        return min(total, before.get(tenant, 0.0) * (own + others) / own)

    def joined(self, tenant: str, waiting: Collection[str]) -> None:
        """Lift a counter to the least of those waiting, or to the last one's that waited."""
        self._waiting.add(tenant)
        if waiting:
            floor = min(self.counter(other) for other in waiting)
        elif self._last_left is not None:
            floor = self.counter(self._last_left)
        else:
            return
        lift = floor - self.counter(tenant)
        if lift > 0:
            self._fresh[tenant] = self._fresh.get(tenant, 0.0) + lift

    def left(self, tenant: str) -> None:
        """Remember who waited last; forget counters that a lift would restore, if there are too many."""
        self._waiting.discard(tenant)
        self._last_left = tenant
        if len(self._fresh) + len(self._totals) > 2 * (_MAX_IDLE_TENANTS + len(self._waiting)):
            self._forget_idle()

    def charge(self, tenant: str, *, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Add the tokens' weights, by the tenant's."""
        settings = self._settings
        weighted = settings.prompt_token_weight * num_prompt_tokens + settings.output_token_weight * num_output_tokens
        if weighted:
            self._fresh[tenant] = self._fresh.get(tenant, 0.0) + weighted / self._weight(tenant)

    def cut(self) -> tuple[TenantAmount, ...]:
        """What was counted here since the last cut, to be added to the shared totals; merge before the next cut."""
        assert not self._cut, "the last cut was not merged"
        self._cut, self._fresh = self._fresh, {}
        return tuple(TenantAmount(tenant, amount) for tenant, amount in sorted(self._cut.items()))

    def merge(self, totals: Iterable[TenantAmount], *, is_cut_included: bool) -> None:
        """Take in the totals of all control planes, which include the last cut or not yet.

        Totals only grow. If one is less than it was, or gone while its tenant waits, the store lost it: what is missing
        is counted here again, so that no tenant is put before the others. One that is gone and waits for nothing is
        forgotten.
        """
        known = self._totals
        if is_cut_included:
            known = known | {tenant: known.get(tenant, 0.0) + amount for tenant, amount in self._cut.items()}
            self._cut = {}
        self._totals = {each.tenant: each.amount for each in totals}
        for tenant, amount in known.items():
            missing = amount - self._totals.get(tenant, 0.0)
            if missing > 0 and (tenant in self._totals or tenant in self._waiting):
                self._fresh[tenant] = self._fresh.get(tenant, 0.0) + missing

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)

    def _forget_idle(self) -> None:
        floor = self.counter(self._last_left) if self._last_left is not None else 0.0
        for tenant in [*self._totals, *self._fresh]:
            is_kept = tenant in self._waiting or tenant in self._cut or tenant == self._last_left
            if not is_kept and self.counter(tenant) <= floor:
                self._totals.pop(tenant, None)
                self._fresh.pop(tenant, None)


def fairness_of(settings: FairnessSettings) -> Fairness:
    """The scheme that a policy asks for."""
    return VirtualTokenCounters(settings) if settings.scheme is FairnessScheme.VTC else ArrivalOrder(settings)
