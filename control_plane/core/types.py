"""The core's vocabulary: events in, effects out. Times are seconds on the caller's monotonic clock."""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from control_plane.core.errors import RequestError
    from control_plane.core.policy import Policy


class FinishReason(Enum):
    """Why a request ended well."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class ResidencyTier(Enum):
    """Where an adapter's weights are on a worker."""

    NONE = "none"
    HOST = "host"
    POOL = "pool"


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter version."""

    adapter_id: str
    digest: str
    rank: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; every default filled in."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When a sequence ends, besides its length."""

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request: validated, tokenised, its adapter resolved.

    `first_token_deadline_s` is the longest wait for the first token: 0 for the policy's default, infinity for none.
    `base_model` is the model that must serve it; empty for whichever the workers have.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    first_token_deadline_s: float
    adapter: AdapterRef | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopConditions = field(default_factory=StopConditions)
    logprob_count: int | None = None
    priority: int = 0
    tenant: str = "default"
    base_model: str = ""


@dataclass(frozen=True, slots=True)
class DispatchedRequest:
    """A request on its way to a worker, with the output that an earlier worker already produced.

    `tier` is where its adapter was on the worker when it was placed; the base model is in every pool.
    """

    request: Request
    resumed_token_ids: tuple[int, ...] = ()
    tier: ResidencyTier = ResidencyTier.NONE


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities at one output position: the chosen token's, and the most likely tokens'."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """New tokens of one request; `finish_reason` is set on its last output."""

    request_id: str
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """A request that failed on a worker; `code` is a gRPC status code's number."""

    request_id: str
    code: int
    reason: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker last said of itself; the fields are those of WorkerStatus in worker.proto.

    `residency` holds changes, or everything if `is_residency_snapshot`. `tenants` are those that may use the worker;
    all if none is named.
    """

    worker_id: str
    base_model: str
    request_window: int
    total_pages: int = 0
    free_pages: int = 0
    kv_pages: int = 0
    adapter_pages: int = 0
    page_size_bytes: int = 0
    block_size: int = 16
    num_running: int = 0
    num_waiting: int = 0
    pending_prefill_tokens: int = 0
    step_ms: float = 0.0
    num_output_tokens: int = 0
    num_prefill_tokens: int = 0
    num_preemptions: int = 0
    residency: tuple[tuple[str, ResidencyTier], ...] = ()
    is_residency_snapshot: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    tenants: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantAmount:
    """A number of something of one tenant."""

    tenant: str
    amount: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a request."""

    num_prompt_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds from a request's arrival; None for what did not happen."""

    dispatched_s: float | None
    first_token_s: float | None
    finished_s: float


# --- events -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A client asks."""

    request: Request


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """A client went away."""

    request_id: str


@dataclass(frozen=True, slots=True)
class WorkerReported:
    """A worker's stream is up and it reported its state; the first report of a stream makes the worker known.

    A stream's events come in order, and none after its `WorkerLost`.
    """

    status: WorkerStatus


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's stream ended."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class LeaseChanged:
    """A worker's lease ran out, or is there again; a worker without a lease gets no new request."""

    worker_id: str
    is_live: bool


@dataclass(frozen=True, slots=True)
class DrainChanged:
    """An operator takes a worker out of service, attached or not, or puts it back.

    A draining worker gets no new request; what runs there ends there, and the adapters in demand go to other workers.
    """

    worker_id: str
    is_draining: bool


@dataclass(frozen=True, slots=True)
class BatchAcked:
    """A worker answered its oldest unanswered batch; a request of it that is named nowhere is not on the worker."""

    worker_id: str
    accepted_request_ids: tuple[str, ...] = ()
    rejected: tuple[WorkerFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class TokensProduced:
    """A worker produced tokens, or failed requests as they ran."""

    worker_id: str
    outputs: tuple[SequenceOutput, ...] = ()
    failures: tuple[WorkerFailure, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """The operator's policy was loaded."""

    policy: "Policy"


@dataclass(frozen=True, slots=True)
class TenantTotalsRead:
    """The totals that all control planes share were read; the first time makes this one share its own.

    `counters` are virtual token counters and `used_tokens` tokens used, of every tenant that has any. `number` is that
    of the last `TenantsCharged` that is included, 0 for none: one that is not is still to be added. While the store
    is away nothing is read, this control plane goes on with what it counts itself, and sends no other `TenantsCharged`.
    """

    number: int
    counters: tuple[TenantAmount, ...]
    used_tokens: tuple[TenantAmount, ...] = ()


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    RequestArrived
    | RequestCancelled
    | WorkerReported
    | WorkerLost
    | LeaseChanged
    | DrainChanged
    | BatchAcked
    | TokensProduced
    | PolicyChanged
    | TenantTotalsRead
    | Tick
)

# --- effects ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Send requests to a worker, with the adapters that it will soon need; `requests` is empty for a hint alone."""

    worker_id: str
    requests: tuple[DispatchedRequest, ...]
    prefetch: tuple[AdapterRef, ...] = ()


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Stop a request on a worker."""

    worker_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """Tell a client that its request was admitted."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Emitted:
    """Send tokens to a client; after an output with a finish reason, `Finished` follows."""

    output: SequenceOutput


@dataclass(frozen=True, slots=True)
class Finished:
    """Tell a client that its request ended; the last effect of a request that ended well."""

    request_id: str
    reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """Tell a client that its request was refused or failed; the last effect of such a request."""

    request_id: str
    error: "RequestError"


@dataclass(frozen=True, slots=True)
class TenantsCharged:
    """Add what tenants got here to the totals that all control planes share, atomically and once; then read the totals.

    `counters` and `used_tokens` are as in `TenantTotalsRead`, which answers with this `number`; until then no other
    comes.
    """

    number: int
    counters: tuple[TenantAmount, ...]
    used_tokens: tuple[TenantAmount, ...] = ()


Effect = SendBatch | SendCancel | Accepted | Emitted | Finished | Failed | TenantsCharged
