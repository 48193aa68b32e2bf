"""What came of a run, as operators judge it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Fate:
    """What became of one request; times are seconds since its arrival."""

    tenant: str
    deadline_s: float
    prompt_tokens: int
    first_token_s: float | None = None
    finished_s: float | None = None
    output_tokens: int = 0
    error: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the first token came before the deadline, or at all if there is none."""
        return self.first_token_s is not None and self.first_token_s < self.deadline_s

    @property
    def satisfaction(self) -> float:
        """1 - (t / deadline)^2, 0 from the deadline on: 1 for an immediate first token."""
        if self.first_token_s is None:
            return 0.0
        return max(0.0, 1.0 - (self.first_token_s / self.deadline_s) ** 2)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of the requests that have the figure, in seconds; 0 if none has."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    mean: float = 0.0

    @classmethod
    def of(cls, values: Iterable[float]) -> "Quantiles":
        """Quantiles of values."""
        found = list(values)
        if not found:
            return cls()
        p50, p90, p99 = np.percentile(found, (50, 90, 99)).tolist()
        return cls(p50, p90, p99, float(np.mean(found)))


@dataclass(frozen=True, slots=True)
class TenantOutcome:
    """One tenant's share."""

    tenant: str
    num_requests: int
    attainment: float
    num_refused: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One policy's result on a trace. Shares are of all requests; a request that was refused has none of the times."""

    policy: str
    num_requests: int
    num_finished: int
    attainment: float
    satisfaction: float
    first_token: Quantiles
    time_per_output_token: Quantiles
    duration_s: float
    output_tokens_per_s: float
    requests_per_s: float
    errors: Mapping[str, int]
    """Requests refused, dropped or failed, by reason."""
    tenants: tuple[TenantOutcome, ...]
    fairness: float
    """Jain's index of the tenants' attainment: 1 if all are alike, 1 / number of tenants if one alone is served."""
    adapter_loads: int
    """Adapters brought into a pool."""
    adapter_fetches: int
    """Adapters brought from the store."""
    load_balance: float
    """Jain's index of the tokens that the workers produced."""
    predictor_error_s: float
    """Mean absolute error of the first-token times that admission predicted; 0 if it predicted none."""
    num_events: int
    transcript: str
    """A digest of every event and effect: the same seed gives the same."""
    fates: tuple[Fate, ...] = field(repr=False, default=())


def jain(values: Iterable[float]) -> float:
    """Jain's fairness index; 1 for nothing at all."""
    found = list(values)
    squares = sum(value * value for value in found)
    return sum(found) ** 2 / (len(found) * squares) if squares else 1.0


def tenant_outcomes(fates: Iterable[Fate]) -> tuple[TenantOutcome, ...]:
    """Each tenant's part, by name."""
    by_tenant: dict[str, list[Fate]] = {}
    for fate in fates:
        by_tenant.setdefault(fate.tenant, []).append(fate)
    return tuple(
        TenantOutcome(
            tenant=tenant,
            num_requests=len(own),
            attainment=sum(fate.is_met for fate in own) / len(own),
            num_refused=sum(bool(fate.error) for fate in own),
            num_tokens=sum(fate.output_tokens for fate in own),
        )
        for tenant, own in sorted(by_tenant.items())
    )


def errors_of(fates: Iterable[Fate]) -> dict[str, int]:
    """How often each reason was given."""
    return dict(sorted(Counter(fate.error for fate in fates if fate.error).items()))
