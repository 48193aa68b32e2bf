"""How many tokens a second each tenant may use."""

import math
from collections.abc import Iterable

from control_plane.core.errors import QuotaExceeded
from control_plane.core.policy import FairnessSettings
from control_plane.core.types import TenantAmount

_MAX_BUCKETS = 100_000


class _Bucket:
    """Tokens that may be used: fills at a rate, up to what comes in `burst_s`, and goes below 0 as output comes."""

    __slots__ = ("at", "burst", "level", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self.level = burst
        self.at = now

    def fill(self, now: float) -> None:
        self.level = min(self.burst, self.level + self.rate * max(0.0, now - self.at))
        self.at = max(self.at, now)


class TokenQuotas:
    """Token buckets of the tenants that have a quota; a request is let in while its tenant's bucket holds anything.

    Prompts are taken from the bucket when a request is let in and output as it is produced, so a tenant may owe what
    its running requests produce, and waits until that is paid.
    """

    def __init__(self, settings: FairnessSettings) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._rates: dict[str, float] = {}
        # Used here: since the last cut, cut and not merged yet, and in the totals; and used by others.
        self._fresh: dict[str, float] = {}
        self._cut: dict[str, float] = {}
        self._own: dict[str, float] = {}
        self._elsewhere: dict[str, float] = {}
        self.settings = settings

    @property
    def settings(self) -> FairnessSettings:
        """Rates by tenant."""
        return self._settings

    @settings.setter
    def settings(self, settings: FairnessSettings) -> None:
        self._settings = settings
        self._rates = {tenant.name: tenant.tokens_per_s for tenant in settings.tenants}
        for tenant, bucket in list(self._buckets.items()):
            bucket.rate, bucket.burst = self._rate(tenant), self._rate(tenant) * settings.quota_burst_s
            if not bucket.rate:
                del self._buckets[tenant]

    def refusal(self, tenant: str, now: float, max_retry_delay_s: float = math.inf) -> QuotaExceeded | None:
        """Why a tenant's request may not be let in, to be tried again after at most so long; None if it may."""
        bucket = self._bucket(tenant, now)
        if bucket is None or bucket.level > 0:
            return None
        # At least one token must be there.
        retry_after_s = min((1.0 - bucket.level) / bucket.rate, max_retry_delay_s)
        return QuotaExceeded(
            f"tenant {tenant} has used its {bucket.rate:g} tokens a second: try again later, or raise its "
            "fairness.tenants tokens_per_s",
            metadata={"tenant": tenant, "tokens_per_s": f"{bucket.rate:g}"},
            retry_after_s=retry_after_s,
        )

    def use(self, tenant: str, num_tokens: int, now: float) -> None:
        """A tenant used tokens here."""
        bucket = self._bucket(tenant, now)
        if bucket is not None:
            bucket.level -= num_tokens
            self._fresh[tenant] = self._fresh.get(tenant, 0.0) + num_tokens

    def cut(self) -> tuple[TenantAmount, ...]:
        """What tenants used here since the last cut; merge before the next."""
        assert not self._cut, "the last cut was not merged"
        self._cut, self._fresh = self._fresh, {}
        return tuple(TenantAmount(tenant, amount) for tenant, amount in sorted(self._cut.items()))

    def merge(self, totals: Iterable[TenantAmount], now: float, *, is_cut_included: bool) -> None:
        """Take from the buckets what the totals say that other control planes let tenants use."""
        if is_cut_included:
            for tenant, amount in self._cut.items():
                self._own[tenant] = self._own.get(tenant, 0.0) + amount
            self._cut = {}
        for each in totals:
            elsewhere = each.amount - self._own.get(each.tenant, 0.0)
            before = self._elsewhere.get(each.tenant)
            self._elsewhere[each.tenant] = elsewhere
            bucket = self._bucket(each.tenant, now)
            if bucket is not None and before is not None and elsewhere > before:
                bucket.level -= elsewhere - before

    def _rate(self, tenant: str) -> float:
        return self._rates.get(tenant, self._settings.default_tokens_per_s)

    def _bucket(self, tenant: str, now: float) -> _Bucket | None:
        rate = self._rate(tenant)
        if not rate:
            return None
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if len(self._buckets) >= _MAX_BUCKETS:
                self._forget_full(now)
            bucket = self._buckets[tenant] = _Bucket(rate, rate * self._settings.quota_burst_s, now)
        bucket.fill(now)
        return bucket

    def _forget_full(self, now: float) -> None:
        """A bucket that is full is as good as one that does not exist."""
        for tenant, bucket in list(self._buckets.items()):
            bucket.fill(now)
            if bucket.level >= bucket.burst:
                del self._buckets[tenant]
