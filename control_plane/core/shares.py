"""How much of the fleet each tenant holds, and what one leaves free for others that have nothing waiting yet."""

from collections import OrderedDict

from control_plane.core.policy import FairnessScheme, FairnessSettings

# How often the size of the fleet is taken in, in seconds.
_REFRESH_S = 0.25
# Less than any request's share: what rounding may leave of a tenant that holds nothing.
_LEAST_SHARE = 1e-9


class TenantShares:
    """Keeps a tenant that floods from holding all of the fleet, so that the next of the others finds room at once.

    Shares are counted in workers: a request holds what it takes of the places or of the pool of one. A tenant that
    alone has requests waiting, and holds its part by weights or more, begins none once all but `kept_share` of the
    fleet is held, if another one had a request within the last `recent_s`. While several wait, their counters alone
    decide.
    """

    def __init__(self, settings: FairnessSettings) -> None:
        self._weights: dict[str, float] = {}
        self.settings = settings
        self._held: dict[str, float] = {}
        # When the last two tenants were seen, the latest last: one of them is another one than whoever asks.
        self._seen_at: OrderedDict[str, float] = OrderedDict()
        self._capacity = 0.0
        self._total = 0.0
        self._refreshed_at: float | None = None

    @property
    def settings(self) -> FairnessSettings:
        """What is kept, and what tenants weigh."""
        return self._settings

    @settings.setter
    def settings(self, settings: FairnessSettings) -> None:
        self._settings = settings
        self._weights = {tenant.name: tenant.weight for tenant in settings.tenants}

    def is_due(self, now: float) -> bool:
        """Whether it is time to look at the fleet again."""
        return self._refreshed_at is None or now - self._refreshed_at >= _REFRESH_S

    def refresh(self, num_workers: int, now: float) -> None:
        """Take in how many workers there are, and the time."""
        self._capacity, self._refreshed_at = float(num_workers), now
        # Summed anew, so that rounding does not add up.
        self._total = sum(self._held.values())
        while self._seen_at and now - next(iter(self._seen_at.values())) > self.settings.recent_s:
            self._seen_at.popitem(last=False)

    def seen(self, tenant: str, now: float) -> None:
        """A request of a tenant came."""
        self._seen_at[tenant] = now
        self._seen_at.move_to_end(tenant)
        if len(self._seen_at) > 2:
            self._seen_at.popitem(last=False)

    def leaves_room(self, tenant: str) -> bool:
        """Whether a tenant that alone has requests waiting may begin one."""
        settings = self.settings
        if settings.scheme is not FairnessScheme.VTC or not settings.kept_share or self._seen_at.keys() <= {tenant}:
            return True
        if self._total < (1.0 - settings.kept_share) * self._capacity - _LEAST_SHARE:
            return True
        total_weight = sum(self._weight(each) for each in {tenant, *self._held, *self._seen_at})
        part = self._capacity * self._weight(tenant) / total_weight
        return self._held.get(tenant, 0.0) < part - _LEAST_SHARE

    def take(self, tenant: str, share: float) -> None:
        """A request of a tenant goes to a worker."""
        self._held[tenant] = self._held.get(tenant, 0.0) + share
        self._total += share

    def give_back(self, tenant: str, share: float) -> None:
        """A request of a tenant left its worker."""
        left = self._held.pop(tenant) - share
        if left > _LEAST_SHARE:
            self._held[tenant] = left
        self._total -= share

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)
