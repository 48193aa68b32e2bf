"""How much of the fleet each tenant holds, and the most that one may hold beside others."""

from collections import OrderedDict

from control_plane.core.cost import Room
from control_plane.core.policy import FairnessScheme, FairnessSettings

# How often the size of the fleet is taken in, in seconds.
_REFRESH_S = 0.25


class TenantShares:
    """Keeps a tenant that floods from holding all of the fleet, so that the others need not wait until it lets go.

    Shares are counted in workers: a request holds what it takes of the places or of the pool of one. A tenant begins no
    more requests while it holds `max_share` of the fleet, if another one had a request within the last `recent_s`.
    """

    def __init__(self, settings: FairnessSettings) -> None:
        self.settings = settings
        self._held: dict[str, float] = {}
        # When the last two tenants were seen, the latest last: one of them is another one than whoever asks.
        self._seen_at: OrderedDict[str, float] = OrderedDict()
        self._room = Room()
        self._capacity = 0.0
        self._refreshed_at: float | None = None

    def is_due(self, now: float) -> bool:
        """Whether it is time to look at the fleet again."""
        return self._refreshed_at is None or now - self._refreshed_at >= _REFRESH_S

    def refresh(self, room: Room, num_workers: int, now: float) -> None:
        """Take in what a worker has on average, how many there are, and the time."""
        self._room, self._capacity, self._refreshed_at = room, float(num_workers), now
        while self._seen_at and now - next(iter(self._seen_at.values())) > self.settings.recent_s:
            self._seen_at.popitem(last=False)

    def seen(self, tenant: str, now: float) -> None:
        """A request of a tenant came."""
        self._seen_at[tenant] = now
        self._seen_at.move_to_end(tenant)
        if len(self._seen_at) > 2:
            self._seen_at.popitem(last=False)

    def may_take(self, tenant: str, num_tokens: float) -> bool:
        """Whether a tenant may begin a request that holds so many tokens at its end."""
        settings = self.settings
        if settings.scheme is not FairnessScheme.VTC or settings.max_share >= 1.0:
            return True
        if self._seen_at.keys() <= {tenant}:
            return True
        held = self._held.get(tenant, 0.0)
        return held == 0 or held + self._room.share(num_tokens) <= settings.max_share * self._capacity

    def take(self, tenant: str, share: float) -> None:
        """A request of a tenant goes to a worker."""
        self._held[tenant] = self._held.get(tenant, 0.0) + share

    def give_back(self, tenant: str, share: float) -> None:
        """A request of a tenant left its worker."""
        left = self._held.pop(tenant) - share
        # What rounding leaves of a tenant that holds nothing is less than any request's share.
        if left > 1e-9:
            self._held[tenant] = left
