"""What operators decide about serving; every default of a policy file is here or in a placement plugin."""

from dataclasses import dataclass, field
from enum import Enum

from control_plane.core.demand import ReplicationSettings
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.settings import bounded


class AdmissionMode(Enum):
    """In which order requests are served, and which are not."""

    FCFS = "fcfs"
    """Oldest first; a first-token deadline is a wish, a late request is served late."""
    LCFS = "lcfs"
    """Newest first; as FCFS otherwise."""
    PAPER_ABORT = "paper-abort"
    """The S-LoRA paper's rule, for comparison: what waited to within `abort_margin_s` of its deadline is dropped; the
    newest go first while requests come faster than they are admitted, else the oldest."""
    EARLY_ABORT = "early-abort"
    """Cheapest first, within bounds; what cannot meet its deadline is refused, or aborted as soon as that is known."""


class FairnessScheme(Enum):
    """Whose turn it is among tenants."""

    ARRIVAL = "arrival"
    """Nobody's: the requests' own order."""
    VTC = "vtc"
    """The tenant's that got the least: virtual token counters."""


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """Who may wait, how long, and who goes first."""

    mode: AdmissionMode = AdmissionMode.EARLY_ABORT
    max_queued: int = bounded(4096, 1, 1_000_000)
    max_queued_per_tenant: int = bounded(2048, 1, 1_000_000)
    default_first_token_deadline_s: float = bounded(0.0, 0.0, 86_400.0)
    """For requests that name none; 0 for no deadline."""
    overtaking_s: float = bounded(25.0, 0.0, 3600.0)
    """In early-abort: how long later requests that cost nothing may overtake one of mean cost; 0 for oldest first."""
    abort_margin_s: float = bounded(0.5, 0.0, 3600.0)
    """In paper-abort: how long before its deadline a request that still waits is dropped."""
    no_worker_grace_s: float = bounded(10.0, 0.0, 3600.0)
    """How long a request waits while no worker can take it."""
    smoothing: float = bounded(0.1, 0.001, 1.0)
    """Weight of the newest measurement in the moving averages."""
    default_retry_delay_s: float = bounded(1.0, 0.01, 3600.0)
    """What a refused client is told to wait before rates were measured."""
    max_retry_delay_s: float = bounded(30.0, 0.01, 3600.0)


@dataclass(frozen=True, slots=True)
class ClusteringSettings:
    """How far requests of one adapter are kept together."""

    max_adapters_per_worker: int = bounded(128, 1, 1_000_000)
    """Distinct adapters among a worker's requests in flight, beyond which it gets only requests of these adapters."""
    max_run: int = bounded(8, 1, 1_000_000)
    """Requests of one adapter that go out together before the next adapter's turn."""
    max_rank_octaves: float = bounded(0.0, 0.0, 16.0)
    """How many doublings an adapter's rank may be from the mean of those in flight on a worker; 0 for any number."""
    max_age_s: float = bounded(1.0, 0.0, 3600.0)
    """A request that waited longer goes in its order, whatever its adapter's rank. The bound on adapters holds even so:
    where no worker has room for its adapter, each lets go of one."""


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """What one tenant has; what is left out is as for tenants that are not named."""

    name: str = ""
    weight: float = bounded(1.0, 0.001, 1000.0)
    """Its share of the service beside others that want more than theirs."""
    tokens_per_s: float = bounded(0.0, 0.001, 1e12, may_be_zero=True)
    """Prompt and output tokens that it may use; 0 for any number."""


@dataclass(frozen=True, slots=True)
class FairnessSettings:
    """How service is divided among tenants."""

    scheme: FairnessScheme = FairnessScheme.VTC
    prompt_token_weight: float = bounded(1.0, 0.0, 1000.0)
    output_token_weight: float = bounded(2.0, 0.0, 1000.0)
    """What a token counts; output costs more, for every token is a step of its own."""
    kept_share: float = bounded(0.1, 0.0, 0.9)
    """What a tenant that alone has requests waiting leaves free of the fleet beyond its part; 0 for nothing."""
    recent_s: float = bounded(30.0, 0.0, 86_400.0)
    """How long room is left for a tenant after its last request came."""
    default_tokens_per_s: float = bounded(0.0, 0.001, 1e12, may_be_zero=True)
    """Tokens that a tenant may use that is not named; 0 for any number."""
    quota_burst_s: float = bounded(10.0, 0.1, 86_400.0)
    """Seconds of its quota that a tenant may use at once."""
    tenants: tuple[TenantSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """How requests are handed to workers."""

    max_attempts: int = bounded(3, 1, 100)
    """Workers that may lose or fail a request before it fails."""
    retry_delay_s: float = bounded(0.1, 0.0, 3600.0)
    """Wait before a request that a worker failed is placed again."""
    prefetch_depth: int = bounded(8, 0, 1000)
    """Queued requests whose adapters workers are told of in advance."""
    max_hinted_adapters: int = bounded(64, 1, 100_000)
    """Hints that are remembered for each worker."""
    lookahead: int = bounded(64, 1, 100_000)
    """Requests that may fail to be placed in one pass before the pass ends."""
    max_promised: float = bounded(1.2, 0.1, 1000.0, may_be_zero=True)
    """How many of a worker's pools may be promised to the ends of its requests in flight, adapters included, beyond
    which it gets no more: above 1 because they do not end together; 0 to go by windows alone."""
    max_batch_tokens: int = bounded(500_000, 1, 2_000_000)
    """Prompt tokens in one message to a worker; a longer batch is split, a single longer request goes alone."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy in force; `digest` names its file's bytes."""

    name: str
    digest: str = ""
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    clustering: ClusteringSettings = field(default_factory=ClusteringSettings)
    placement: PlacementPolicy = field(default_factory=PlacementPolicy)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    replication: ReplicationSettings = field(default_factory=ReplicationSettings)
    fairness: FairnessSettings = field(default_factory=FairnessSettings)
