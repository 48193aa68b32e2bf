from multitude.v1 import sampling_pb2 as _sampling_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ResidencyTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESIDENCY_TIER_UNSPECIFIED: _ClassVar[ResidencyTier]
    RESIDENCY_TIER_HOST: _ClassVar[ResidencyTier]
    RESIDENCY_TIER_POOL: _ClassVar[ResidencyTier]
RESIDENCY_TIER_UNSPECIFIED: ResidencyTier
RESIDENCY_TIER_HOST: ResidencyTier
RESIDENCY_TIER_POOL: ResidencyTier

class DispatchRequest(_message.Message):
    __slots__ = ("attach", "batch", "cancel", "credit", "prefetch")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    attach: Attach
    batch: RequestBatch
    cancel: CancelRequest
    credit: StepCredit
    prefetch: PrefetchHint
    def __init__(self, attach: _Optional[_Union[Attach, _Mapping]] = ..., batch: _Optional[_Union[RequestBatch, _Mapping]] = ..., cancel: _Optional[_Union[CancelRequest, _Mapping]] = ..., credit: _Optional[_Union[StepCredit, _Mapping]] = ..., prefetch: _Optional[_Union[PrefetchHint, _Mapping]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("control_plane_id", "base_model", "step_credit_count")
    CONTROL_PLANE_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    STEP_CREDIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    control_plane_id: str
    base_model: str
    step_credit_count: int
    def __init__(self, control_plane_id: _Optional[str] = ..., base_model: _Optional[str] = ..., step_credit_count: _Optional[int] = ...) -> None: ...

class RequestBatch(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[DispatchedRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[DispatchedRequest, _Mapping]]] = ...) -> None: ...

class AdapterRef(_message.Message):
    __slots__ = ("adapter_id", "digest", "rank", "size_bytes")
    ADAPTER_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    adapter_id: str
    digest: str
    rank: int
    size_bytes: int
    def __init__(self, adapter_id: _Optional[str] = ..., digest: _Optional[str] = ..., rank: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class DispatchedRequest(_message.Message):
    __slots__ = ("request_id", "adapter", "prompt_token_ids", "resumed_token_ids", "sampling", "stop", "max_tokens", "logprob_count", "priority")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_COUNT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    adapter: AdapterRef
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    resumed_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: _sampling_pb2.SamplingParams
    stop: _sampling_pb2.StopConditions
    max_tokens: int
    logprob_count: int
    priority: int
    def __init__(self, request_id: _Optional[str] = ..., adapter: _Optional[_Union[AdapterRef, _Mapping]] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., resumed_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_sampling_pb2.SamplingParams, _Mapping]] = ..., stop: _Optional[_Union[_sampling_pb2.StopConditions, _Mapping]] = ..., max_tokens: _Optional[int] = ..., logprob_count: _Optional[int] = ..., priority: _Optional[int] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class StepCredit(_message.Message):
    __slots__ = ("step_credit_count",)
    STEP_CREDIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    step_credit_count: int
    def __init__(self, step_credit_count: _Optional[int] = ...) -> None: ...

class PrefetchHint(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterRef]
    def __init__(self, adapters: _Optional[_Iterable[_Union[AdapterRef, _Mapping]]] = ...) -> None: ...

class DispatchResponse(_message.Message):
    __slots__ = ("status", "ack", "step")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    status: WorkerStatus
    ack: BatchAck
    step: StepOutput
    def __init__(self, status: _Optional[_Union[WorkerStatus, _Mapping]] = ..., ack: _Optional[_Union[BatchAck, _Mapping]] = ..., step: _Optional[_Union[StepOutput, _Mapping]] = ...) -> None: ...

class BatchAck(_message.Message):
    __slots__ = ("accepted_request_ids", "rejected")
    ACCEPTED_REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    accepted_request_ids: _containers.RepeatedScalarFieldContainer[str]
    rejected: _containers.RepeatedCompositeFieldContainer[RequestFailure]
    def __init__(self, accepted_request_ids: _Optional[_Iterable[str]] = ..., rejected: _Optional[_Iterable[_Union[RequestFailure, _Mapping]]] = ...) -> None: ...

class RequestFailure(_message.Message):
    __slots__ = ("request_id", "code", "reason", "message", "retryable")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    code: int
    reason: str
    message: str
    retryable: bool
    def __init__(self, request_id: _Optional[str] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...

class StepOutput(_message.Message):
    __slots__ = ("outputs", "failures")
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.RepeatedCompositeFieldContainer[SequenceOutput]
    failures: _containers.RepeatedCompositeFieldContainer[RequestFailure]
    def __init__(self, outputs: _Optional[_Iterable[_Union[SequenceOutput, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[RequestFailure, _Mapping]]] = ...) -> None: ...

class SequenceOutput(_message.Message):
    __slots__ = ("request_id", "token_ids", "text", "logprobs", "finish_reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    logprobs: _containers.RepeatedCompositeFieldContainer[_sampling_pb2.PositionLogprobs]
    finish_reason: _sampling_pb2.FinishReason
    def __init__(self, request_id: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., logprobs: _Optional[_Iterable[_Union[_sampling_pb2.PositionLogprobs, _Mapping]]] = ..., finish_reason: _Optional[_Union[_sampling_pb2.FinishReason, str]] = ...) -> None: ...

class Residency(_message.Message):
    __slots__ = ("digest", "tier")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    digest: str
    tier: ResidencyTier
    def __init__(self, digest: _Optional[str] = ..., tier: _Optional[_Union[ResidencyTier, str]] = ...) -> None: ...

class WorkerStatus(_message.Message):
    __slots__ = ("worker_id", "base_model", "request_window", "total_page_count", "free_page_count", "kv_page_count", "adapter_page_count", "page_size_bytes", "block_size_tokens", "running_count", "waiting_count", "pending_prefill_token_count", "step_ms", "output_token_count", "prefill_token_count", "preemption_count", "residency", "is_residency_snapshot", "labels", "tenants", "resident_adapter_count", "loading_adapter_count", "adapter_load_count", "adapter_load_bytes", "step")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_WINDOW_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    FREE_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    KV_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    PENDING_PREFILL_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREEMPTION_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESIDENCY_FIELD_NUMBER: _ClassVar[int]
    IS_RESIDENCY_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_ADAPTER_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOADING_ADAPTER_COUNT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_LOAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_LOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    base_model: str
    request_window: int
    total_page_count: int
    free_page_count: int
    kv_page_count: int
    adapter_page_count: int
    page_size_bytes: int
    block_size_tokens: int
    running_count: int
    waiting_count: int
    pending_prefill_token_count: int
    step_ms: float
    output_token_count: int
    prefill_token_count: int
    preemption_count: int
    residency: _containers.RepeatedCompositeFieldContainer[Residency]
    is_residency_snapshot: bool
    labels: _containers.ScalarMap[str, str]
    tenants: _containers.RepeatedScalarFieldContainer[str]
    resident_adapter_count: int
    loading_adapter_count: int
    adapter_load_count: int
    adapter_load_bytes: int
    step: EngineStep
    def __init__(self, worker_id: _Optional[str] = ..., base_model: _Optional[str] = ..., request_window: _Optional[int] = ..., total_page_count: _Optional[int] = ..., free_page_count: _Optional[int] = ..., kv_page_count: _Optional[int] = ..., adapter_page_count: _Optional[int] = ..., page_size_bytes: _Optional[int] = ..., block_size_tokens: _Optional[int] = ..., running_count: _Optional[int] = ..., waiting_count: _Optional[int] = ..., pending_prefill_token_count: _Optional[int] = ..., step_ms: _Optional[float] = ..., output_token_count: _Optional[int] = ..., prefill_token_count: _Optional[int] = ..., preemption_count: _Optional[int] = ..., residency: _Optional[_Iterable[_Union[Residency, _Mapping]]] = ..., is_residency_snapshot: _Optional[bool] = ..., labels: _Optional[_Mapping[str, str]] = ..., tenants: _Optional[_Iterable[str]] = ..., resident_adapter_count: _Optional[int] = ..., loading_adapter_count: _Optional[int] = ..., adapter_load_count: _Optional[int] = ..., adapter_load_bytes: _Optional[int] = ..., step: _Optional[_Union[EngineStep, _Mapping]] = ...) -> None: ...

class EngineStep(_message.Message):
    __slots__ = ("sequence_count", "prefill_token_count", "decode_token_count", "plan_ms", "pack_ms", "launch_ms", "wait_ms", "emit_ms")
    SEQUENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    DECODE_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    PLAN_MS_FIELD_NUMBER: _ClassVar[int]
    PACK_MS_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_MS_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    EMIT_MS_FIELD_NUMBER: _ClassVar[int]
    sequence_count: int
    prefill_token_count: int
    decode_token_count: int
    plan_ms: float
    pack_ms: float
    launch_ms: float
    wait_ms: float
    emit_ms: float
    def __init__(self, sequence_count: _Optional[int] = ..., prefill_token_count: _Optional[int] = ..., decode_token_count: _Optional[int] = ..., plan_ms: _Optional[float] = ..., pack_ms: _Optional[float] = ..., launch_ms: _Optional[float] = ..., wait_ms: _Optional[float] = ..., emit_ms: _Optional[float] = ...) -> None: ...

class WorkerLease(_message.Message):
    __slots__ = ("worker_id", "address", "base_model", "context_length", "start_time_ms", "labels", "tenants")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    START_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    address: str
    base_model: str
    context_length: int
    start_time_ms: int
    labels: _containers.ScalarMap[str, str]
    tenants: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_id: _Optional[str] = ..., address: _Optional[str] = ..., base_model: _Optional[str] = ..., context_length: _Optional[int] = ..., start_time_ms: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., tenants: _Optional[_Iterable[str]] = ...) -> None: ...
