"""What the client takes and returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `role` is "system", "user", "assistant" or another that the template knows."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[Message]
"""A text, token ids as they are, or a conversation."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen; None takes the service's default. Ranges: protos/multitude/v1/sampling.proto."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When to stop, besides `max_tokens`."""

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """The chosen token's log-probability, and those of the most likely tokens, most likely first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted."""

    request_id: str
    adapter_digest: str
    num_prompt_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class TokenChunk:
    """New tokens and the text that became final with them."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts."""

    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds from the request's arrival at the control plane."""

    dispatched_ms: float
    first_token_ms: float
    finished_ms: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation."""

    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole generation."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    adapter_digest: str = ""
    seed: int = 0
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """The base model, or an adapter of it."""

    id: str
    is_base: bool
    base_model: str
    context_length: int
    adapter_digest: str = ""
    rank: int = 0


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """An immutable version, named by the SHA-256 of its canonical weights."""

    digest: str
    create_time: datetime
    rank: int
    target_modules: tuple[str, ...]
    size_bytes: int
    num_parameters: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter; `versions` is newest first, and empty in listings."""

    adapter_id: str
    base_model: str
    latest: AdapterVersion
    versions: tuple[AdapterVersion, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishedAdapter:
    """What publishing a PEFT directory did; `created` is False if the version was there already."""

    adapter: Adapter
    version: AdapterVersion
    created: bool


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as the control plane sees it; `resident` maps adapter digests to "host" or "pool".

    `tenants` are those that may use it; all if none is named.
    """

    worker_id: str
    address: str
    is_attached: bool
    base_model: str
    num_dispatched: int
    request_window: int
    num_running: int
    num_waiting: int
    total_pages: int
    free_pages: int
    kv_pages: int
    adapter_pages: int
    page_size_bytes: int
    step_ms: float
    num_output_tokens: int
    num_preemptions: int
    is_draining: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    tenants: tuple[str, ...] = ()
    resident: dict[str, str] = field(default_factory=dict)


class PolicySource(Enum):
    """Where the policy in force comes from."""

    BUILT_IN = "built in"
    FILE = "file"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Policy:
    """The placement policy in force.

    `pending_error` says why a newer one was refused, if one was. `version` is 0 unless the policy was applied; then it
    wins over `shadowed_file`, the control plane's own file, if it has one.
    """

    name: str
    digest: str
    yaml: str
    pending_error: str = ""
    version: int = 0
    source: PolicySource = PolicySource.BUILT_IN
    shadowed_file: str = ""


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """One version of the fleet's policy; one without name and digest gave the control planes' own files their place."""

    version: int
    name: str
    digest: str
    apply_time: datetime
    control_plane_id: str
    restored_version: int | None = None


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """A control plane of the fleet, as it last described itself."""

    control_plane_id: str
    address: str
    num_in_flight: int
    policy_version: int
    policy_digest: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet as one control plane sees it; that one is the first of `control_planes`."""

    workers: tuple[Worker, ...]
    num_queued: int
    num_dispatched: int
    policy: Policy
    is_state_store_reachable: bool
    control_planes: tuple[ControlPlane, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyProblem:
    """One fault, or one doubtful setting, in a policy file; `line` counts from 1, 0 if no line can be named."""

    line: int
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class PolicyCheck:
    """What is wrong with a policy file, and what a good one would do that its operator hardly wants."""

    problems: tuple[PolicyProblem, ...] = ()
    warnings: tuple[PolicyProblem, ...] = ()

    @property
    def is_good(self) -> bool:
        """Whether it can be applied; there may be warnings."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class PlacementStep:
    """One time that a request was sent to a worker, in ms from its arrival.

    `reason` says what it found there: "pool", "host" or "cold" (where its adapter was), "base", or "rerouted".
    """

    worker_id: str
    placed_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class RequestStory:
    """What happened to a request; times are in ms from its arrival, None for what did not happen."""

    request_id: str
    tenant: str
    adapter: str
    adapter_digest: str
    arrival_time: datetime
    state: str
    policy_digest: str
    placements: tuple[PlacementStep, ...]
    first_token_ms: float | None
    ended_ms: float | None
    num_prompt_tokens: int
    num_output_tokens: int
    error_reason: str = ""
    error_message: str = ""
    control_plane_id: str = ""


@dataclass(frozen=True, slots=True)
class ScoreTerm:
    """One scorer's term: how much it counts, and what it says, in [0, 1]."""

    scorer: str
    weight: float
    value: float


@dataclass(frozen=True, slots=True)
class WorkerVerdict:
    """What the policy says of a worker: the filters that refuse it, the scorers' terms and their weighted mean."""

    worker_id: str
    refused_by: tuple[str, ...]
    scores: tuple[ScoreTerm, ...]
    score: float


@dataclass(frozen=True, slots=True)
class PlacementDecision:
    """A decision and what led to it; `worker_id` is empty if every worker was refused, the last one by `emptied_by`."""

    worker_id: str
    profile: str
    picker: str
    emptied_by: str
    verdicts: tuple[WorkerVerdict, ...]
    policy_name: str
    policy_digest: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a request would be placed now; and, of one that was made, what happened to it."""

    decision: PlacementDecision
    story: RequestStory | None = None


@dataclass(frozen=True, slots=True)
class SimulatedTimes:
    """Quantiles and mean, in ms."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float


@dataclass(frozen=True, slots=True)
class SimulatedTenant:
    """A tenant's part of a simulation."""

    tenant: str
    num_requests: int
    attainment: float
    num_errors: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class SimulatedOutcome:
    """How a policy did on a trace. Shares are of all requests.

    `first_token_curve_ms` says within how many ms 1, 2, 3 ... % of all requests had their first token, as far as they
    had one; `output_token_counts` are of the requests that ended in each 60th of the time.
    """

    label: str
    num_requests: int
    num_finished: int
    attainment: float
    satisfaction: float
    fairness: float
    first_token: SimulatedTimes
    output_token: SimulatedTimes
    output_tokens_per_s: float
    requests_per_s: float
    num_adapter_loads: int
    num_adapter_fetches: int
    load_balance: float
    errors: dict[str, int]
    tenants: tuple[SimulatedTenant, ...]
    duration_ms: float
    first_token_curve_ms: tuple[float, ...] = ()
    output_token_counts: tuple[int, ...] = ()
    prediction_error_ms: float = 0.0
