"""What tenants got from all control planes together: added in numbered lots, each of them once, and read back."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from redis.asyncio import Redis

from control_plane.core.types import Event, TenantAmount, TenantsCharged, TenantTotalsRead
from control_plane.state.keys import CHARGE_TENANTS, Keys
from control_plane.state.store import StateAway, StateStore

# Sharing takes no more than this part of the time, however many tenants there are.
BUSY_SHARE = 0.05


class Reporter(Protocol):
    """Who is told of the totals."""

    def report(self, event: Event) -> None:
        """The totals were read."""


class TenantTotals:
    """Carries what the director charged to Redis, and the totals back.

    A lot whose answer is lost is sent again under its number, and Redis knows whether it is in. While Redis is away the
    lot waits and the director counts on by itself.
    """

    def __init__(self, store: StateStore, keys: Keys, reporter: Reporter, *, interval_s: float, ttl_s: float) -> None:
        self._store = store
        self._keys = keys
        self._reporter = reporter
        self._interval_s = interval_s
        self._ttl_s = ttl_s
        # Lots are numbered anew in each life of a control plane.
        self._life = uuid.uuid4().hex
        self._lot: TenantsCharged | None = None

    def charge(self, lot: TenantsCharged) -> None:
        """Takes a lot to be added; the one before is in by then."""
        assert self._lot is None, "the last lot is still under way"
        self._lot = lot

    async def run(self) -> None:
        """Shares for ever."""
        loop = asyncio.get_running_loop()
        while True:
            begin = loop.time()
            with suppress(StateAway):
                await self.share()
            await asyncio.sleep(max(self._interval_s, (loop.time() - begin) / BUSY_SHARE))

    async def share(self) -> None:
        """Adds the lot there is, and reports the totals. Raises StateAway."""
        lot = self._lot
        read = await self._store.probe(lambda redis: self._exchange(redis, lot))
        if lot is not None and read.number >= lot.number:
            self._lot = None
        self._reporter.report(read)

    async def _exchange(self, redis: Redis, lot: TenantsCharged | None) -> TenantTotalsRead:
        counters, used = (lot.counters, lot.used_tokens) if lot else ((), ())
        keys = (self._keys.tenant_counters, self._keys.tenant_tokens, self._keys.tenants, self._keys.lot(self._life))
        amounts = [part for each in (*counters, *used) for part in (each.tenant, repr(each.amount))]
        arguments = (str(lot.number if lot else 0), str(round(self._ttl_s)), str(len(counters)), *amounts)
        number, all_counters, all_used = await redis.eval(CHARGE_TENANTS, len(keys), *keys, *arguments)
        return TenantTotalsRead(int(number), _amounts(all_counters), _amounts(all_used))


def _amounts(found: Sequence[str]) -> tuple[TenantAmount, ...]:
    return tuple(TenantAmount(tenant, float(amount)) for tenant, amount in zip(found[::2], found[1::2], strict=True))
