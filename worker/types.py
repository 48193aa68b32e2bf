"""The worker's vocabulary: what its server, engine process and engine say to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Self

from worker.errors import Code, WorkerError
from worker.memory.layout import AdapterLayout


class FinishReason(Enum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class ResidencyTier(Enum):
    """Where an adapter's weights are on this worker."""

    NONE = "none"
    HOST = "host"
    POOL = "pool"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; ranges and meaning as in protos/multitude/v1/sampling.proto."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter version as the control plane names it; the store serves its weights by digest."""

    adapter_id: str
    digest: str
    rank: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class HostedAdapter:
    """An adapter version packed in pages in the host arena, ready to be copied into the pool.

    `host_pages[i]` holds what the adapter's i-th pool page has to hold, for all layers.
    """

    digest: str
    layout: AdapterLayout
    host_pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came from the control plane: text conditions and a named adapter."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: AdapterRef | None = None
    resumed_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprob_count: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as the engine takes it: ids only, and an adapter whose weights are in host memory.

    `stop_token_ids` includes the model's end-of-sequence tokens unless the request ignores them.
    `resumed_token_ids` is output that was already produced elsewhere: it counts as output and is not emitted again.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: HostedAdapter | None = None
    resumed_token_ids: tuple[int, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    logprob_count: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities at one output position: the chosen token's, and the most likely tokens', most likely first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SequenceOutput(NamedTuple):
    """New tokens of one sequence from one step; `finish_reason` is set on its last output.

    A stop token that ended the sequence is not among `token_ids`. A tuple, because every step makes and pickles one for
    each sequence: 512 take 0.5 ms so, and 1.0 ms as dataclasses (Intel Xeon).
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class BatchSize:
    """A batch that is filled up with sequences that own no row, so that its tensors have these shapes whoever is in it.

    Attributes:
        num_rows: Rows of tokens.
        num_seqs: Sequences, adapters, and rows of logits.
        is_decode: Whether no sequence owns more than one row.
    """

    num_rows: int
    num_seqs: int
    is_decode: bool


@dataclass(frozen=True, slots=True)
class OutputPiece:
    """What one step added to a request's output: tokens, and the text that became certain with them.

    Text that was held back and turned out to be no stop string comes with the end, and then maybe without a token.
    """

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """A request that the worker could not serve: a stable UPPER_SNAKE reason and what to change."""

    request_id: str
    reason: str
    message: str
    retryable: bool = False
    code: Code = Code.INTERNAL

    @classmethod
    def of(cls, request_id: str, error: WorkerError) -> Self:
        """The failure of a request by an error."""
        return cls(request_id, error.reason, error.message, error.retryable, error.code)


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where a step's time went on the host, in ms.

    Attributes:
        plan_ms: Who runs, and the adapters' copies begun.
        pack_ms: The plan as tables, on their way to the device.
        launch_ms: Forward pass and sampling given to the device, where that is the host itself also done.
        wait_ms: For tokens; on a GPU those of the step before.
        emit_ms: Tokens given to their sequences.
    """

    plan_ms: float = 0.0
    pack_ms: float = 0.0
    launch_ms: float = 0.0
    wait_ms: float = 0.0
    emit_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine's state after a step; counters run from its start.

    Attributes:
        total_pages: Of the pool; they are free, hold KV, or hold adapters.
        free_pages: See `total_pages`.
        kv_pages: See `total_pages`.
        adapter_pages: See `total_pages`.
        num_running: Sequences in the batch.
        num_waiting: Sequences not in the batch.
        pending_prefill_tokens: Tokens to compute before every sequence decodes.
        step_ms: How long the step took.
        num_output_tokens: Counter: tokens produced.
        num_prefill_tokens: Counter: prompt tokens computed, those of preempted sequences again.
        num_preemptions: Counter: sequences that lost their pages.
        num_sequences: In the batch that the step gave to the device.
        num_rows: Tokens computed for them.
        num_prefill_rows: Those of them that are of prompts; the others are decodes.
        num_resident_adapters: In the pool.
        num_loading_adapters: Those of them that are still being copied.
        num_loads: Counter: copies of adapters to the pool.
        loaded_bytes: Counter: bytes of these.
        times: Where the step's time went.
    """

    total_pages: int = 0
    free_pages: int = 0
    kv_pages: int = 0
    adapter_pages: int = 0
    num_running: int = 0
    num_waiting: int = 0
    pending_prefill_tokens: int = 0
    step_ms: float = 0.0
    num_output_tokens: int = 0
    num_prefill_tokens: int = 0
    num_preemptions: int = 0
    num_sequences: int = 0
    num_rows: int = 0
    num_prefill_rows: int = 0
    num_resident_adapters: int = 0
    num_loading_adapters: int = 0
    num_loads: int = 0
    loaded_bytes: int = 0
    times: StepTimes = StepTimes()


@dataclass(frozen=True, slots=True)
class PoolResidency:
    """An adapter version entered (`resident`) or left the pool."""

    digest: str
    resident: bool


@dataclass(frozen=True, slots=True)
class StepResult:
    """Everything that one engine step produced."""

    outputs: tuple[SequenceOutput, ...] = ()
    failures: tuple[RequestFailure, ...] = ()
    residency: tuple[PoolResidency, ...] = ()
    stats: EngineStats = field(default_factory=EngineStats)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker says of itself to a control plane.

    `residency` holds changes since the last status, or everything if `is_residency_snapshot`.
    """

    worker_id: str
    base_model: str
    request_window: int
    page_size_bytes: int
    block_size: int
    stats: EngineStats = field(default_factory=EngineStats)
    residency: Mapping[str, ResidencyTier] = field(default_factory=dict)
    is_residency_snapshot: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    tenants: tuple[str, ...] = ()
