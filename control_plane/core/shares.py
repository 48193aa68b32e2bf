"""How much of the fleet each tenant holds, and what the one that wants most leaves free for the others."""

from collections import OrderedDict
from collections.abc import Mapping

from control_plane.core.cost import Room
from control_plane.core.policy import FairnessScheme, FairnessSettings

# How often the size of the fleet is taken in, in seconds.
_REFRESH_S = 0.25
# The weight of the newest in the mean share of a request.
_SMOOTHING = 0.1


class TenantShares:
    """Keeps a tenant that floods from holding all of the fleet, so that the others need not wait until it lets go.

    Shares are counted in workers: a request holds what it takes of the places or of the pool of one. The tenant that
    wants most, with what it holds and what it has waiting, begins no request in the last `kept_share` of the fleet that
    would take it beyond its part by weights, if another one had a request within the last `recent_s`. Tenants that all
    want more than their parts leave nothing.
    """

    def __init__(self, settings: FairnessSettings) -> None:
        self._weights: dict[str, float] = {}
        self.settings = settings
        self._held: dict[str, float] = {}
        # When the last two tenants were seen, the latest last: one of them is another one than whoever asks.
        self._seen_at: OrderedDict[str, float] = OrderedDict()
        self._room = Room()
        self._capacity = 0.0
        self._total = 0.0
        self._mean = 0.0
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

    def refresh(self, room: Room, num_workers: int, now: float) -> None:
        """Take in what a worker has on average, how many there are, and the time."""
        self._room, self._capacity, self._refreshed_at = room, float(num_workers), now
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

    def greediest(self, num_waiting: Mapping[str, int]) -> str | None:
        """The tenant that is to leave room, by each one's waiting requests; None if nobody is."""
        settings = self.settings
        if settings.scheme is not FairnessScheme.VTC or not settings.kept_share or not self._seen_at:
            return None
        wanted = dict.fromkeys(self._seen_at, 0.0) | self._held
        for tenant, count in num_waiting.items():
            wanted[tenant] = wanted.get(tenant, 0.0) + count * self._mean
        most = max(wanted, key=lambda tenant: (wanted[tenant], tenant))
        if most not in num_waiting or self._seen_at.keys() <= {most}:
            return None
        total_weight = sum(self._weight(tenant) for tenant in wanted)
        part = self._capacity * self._weight(most) / total_weight
        return most if self._held.get(most, 0.0) + self._mean > part else None

    def leaves_room(self, num_tokens: float) -> bool:
        """Whether what is kept stays free beside one more request that holds so many tokens at its end."""
        return self._total + self._room.share(num_tokens) <= (1.0 - self.settings.kept_share) * self._capacity

    def take(self, tenant: str, share: float) -> None:
        """A request of a tenant goes to a worker."""
        self._held[tenant] = self._held.get(tenant, 0.0) + share
        self._total += share
        self._mean += _SMOOTHING * (share - self._mean)

    def give_back(self, tenant: str, share: float) -> None:
        """A request of a tenant left its worker."""
        left = self._held.pop(tenant) - share
        # What rounding leaves of a tenant that holds nothing is less than any request's share.
        if left > 1e-9:
            self._held[tenant] = left
        self._total -= share

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)
