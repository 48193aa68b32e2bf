"""The shell's vocabulary: a call as a client made it, before it becomes a `Request` of the core."""

from dataclasses import dataclass
from enum import Enum

from control_plane.core.types import SamplingParams, StopConditions, WorkerStatus


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text, tokenised with the special tokens that the model's tokenizer adds."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, taken as they are."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, rendered by the model's chat template."""

    messages: tuple[ChatMessage, ...]


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """A decoded Generate call whose fields are each in their own range; what depends on the prompt is still open.

    `request_id` is the caller's or, if `is_request_id_chosen` is false, made up here. `max_tokens` None and
    `first_token_deadline_ms` 0 stand for the operator's defaults.
    """

    request_id: str
    is_request_id_chosen: bool
    adapter: str
    prompt: Prompt
    sampling: SamplingParams
    stop: StopConditions
    max_tokens: int | None
    logprob_count: int | None
    priority: int
    first_token_deadline_ms: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the shell knows of the base model: its name, vocabulary and longest sequence in tokens."""

    name: str
    vocab_size: int
    context_length: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker that holds a lease, or one that the operator named; the latter has no id until it reports."""

    address: str
    worker_id: str = ""
    base_model: str = ""
    context_length: int = 0
    start_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A worker as this control plane sees it; `status` is None while its stream is not up.

    The residency in `status` is the whole list.
    """

    address: str
    worker_id: str
    status: WorkerStatus | None
    num_dispatched: int
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The workers by id, and how many requests wait and run."""

    workers: tuple[WorkerSnapshot, ...]
    num_queued: int
    num_dispatched: int


class PolicySource(Enum):
    """Where a policy comes from."""

    BUILT_IN = "built in"
    FILE = "file"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """The policy in force, and why a newer one had to be refused, if one had.

    `version` is 0 unless it was applied; then it may win over a `shadowed_file`.
    """

    name: str
    digest: str
    text: str
    pending_error: str = ""
    version: int = 0
    source: PolicySource = PolicySource.BUILT_IN
    shadowed_file: str = ""


@dataclass(frozen=True, slots=True)
class ControlPlaneView:
    """A control plane of the fleet, as it last described itself."""

    control_plane_id: str
    address: str
    num_in_flight: int
    policy_version: int
    policy_digest: str
