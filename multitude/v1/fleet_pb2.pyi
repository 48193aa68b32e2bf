import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from multitude.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PolicySource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_SOURCE_UNSPECIFIED: _ClassVar[PolicySource]
    POLICY_SOURCE_BUILT_IN: _ClassVar[PolicySource]
    POLICY_SOURCE_FILE: _ClassVar[PolicySource]
    POLICY_SOURCE_APPLIED: _ClassVar[PolicySource]
POLICY_SOURCE_UNSPECIFIED: PolicySource
POLICY_SOURCE_BUILT_IN: PolicySource
POLICY_SOURCE_FILE: PolicySource
POLICY_SOURCE_APPLIED: PolicySource

class GetFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("workers", "queued_count", "dispatched_count", "policy", "is_state_store_reachable", "control_planes")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    IS_STATE_STORE_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_PLANES_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerView]
    queued_count: int
    dispatched_count: int
    policy: PolicyVersion
    is_state_store_reachable: bool
    control_planes: _containers.RepeatedCompositeFieldContainer[ControlPlaneView]
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerView, _Mapping]]] = ..., queued_count: _Optional[int] = ..., dispatched_count: _Optional[int] = ..., policy: _Optional[_Union[PolicyVersion, _Mapping]] = ..., is_state_store_reachable: _Optional[bool] = ..., control_planes: _Optional[_Iterable[_Union[ControlPlaneView, _Mapping]]] = ...) -> None: ...

class ControlPlaneView(_message.Message):
    __slots__ = ("control_plane_id", "address", "in_flight_count", "policy_version", "policy_digest")
    CONTROL_PLANE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    control_plane_id: str
    address: str
    in_flight_count: int
    policy_version: int
    policy_digest: str
    def __init__(self, control_plane_id: _Optional[str] = ..., address: _Optional[str] = ..., in_flight_count: _Optional[int] = ..., policy_version: _Optional[int] = ..., policy_digest: _Optional[str] = ...) -> None: ...

class WorkerView(_message.Message):
    __slots__ = ("address", "is_attached", "status", "dispatched_count", "is_draining")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    IS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    address: str
    is_attached: bool
    status: _worker_pb2.WorkerStatus
    dispatched_count: int
    is_draining: bool
    def __init__(self, address: _Optional[str] = ..., is_attached: _Optional[bool] = ..., status: _Optional[_Union[_worker_pb2.WorkerStatus, _Mapping]] = ..., dispatched_count: _Optional[int] = ..., is_draining: _Optional[bool] = ...) -> None: ...

class DrainWorkerRequest(_message.Message):
    __slots__ = ("worker_id", "is_draining")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    IS_DRAINING_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    is_draining: bool
    def __init__(self, worker_id: _Optional[str] = ..., is_draining: _Optional[bool] = ...) -> None: ...

class DrainWorkerResponse(_message.Message):
    __slots__ = ("is_attached",)
    IS_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    is_attached: bool
    def __init__(self, is_attached: _Optional[bool] = ...) -> None: ...

class PolicyVersion(_message.Message):
    __slots__ = ("name", "digest", "yaml", "pending_error", "version", "source", "shadowed_file")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    PENDING_ERROR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SHADOWED_FILE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    yaml: str
    pending_error: str
    version: int
    source: PolicySource
    shadowed_file: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., yaml: _Optional[str] = ..., pending_error: _Optional[str] = ..., version: _Optional[int] = ..., source: _Optional[_Union[PolicySource, str]] = ..., shadowed_file: _Optional[str] = ...) -> None: ...

class ApplyPolicyRequest(_message.Message):
    __slots__ = ("yaml",)
    YAML_FIELD_NUMBER: _ClassVar[int]
    yaml: str
    def __init__(self, yaml: _Optional[str] = ...) -> None: ...

class ApplyPolicyResponse(_message.Message):
    __slots__ = ("applied",)
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    applied: AppliedPolicy
    def __init__(self, applied: _Optional[_Union[AppliedPolicy, _Mapping]] = ...) -> None: ...

class AppliedPolicy(_message.Message):
    __slots__ = ("version", "name", "digest", "apply_time", "control_plane_id", "restored_version")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    APPLY_TIME_FIELD_NUMBER: _ClassVar[int]
    CONTROL_PLANE_ID_FIELD_NUMBER: _ClassVar[int]
    RESTORED_VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    name: str
    digest: str
    apply_time: _timestamp_pb2.Timestamp
    control_plane_id: str
    restored_version: int
    def __init__(self, version: _Optional[int] = ..., name: _Optional[str] = ..., digest: _Optional[str] = ..., apply_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., control_plane_id: _Optional[str] = ..., restored_version: _Optional[int] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies", "next_page_token")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[AppliedPolicy]
    next_page_token: str
    def __init__(self, policies: _Optional[_Iterable[_Union[AppliedPolicy, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RollBackPolicyRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class RollBackPolicyResponse(_message.Message):
    __slots__ = ("applied",)
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    applied: AppliedPolicy
    def __init__(self, applied: _Optional[_Union[AppliedPolicy, _Mapping]] = ...) -> None: ...

class CheckPolicyRequest(_message.Message):
    __slots__ = ("yaml",)
    YAML_FIELD_NUMBER: _ClassVar[int]
    yaml: str
    def __init__(self, yaml: _Optional[str] = ...) -> None: ...

class CheckPolicyResponse(_message.Message):
    __slots__ = ("problems", "warnings")
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedCompositeFieldContainer[PolicyProblem]
    warnings: _containers.RepeatedCompositeFieldContainer[PolicyProblem]
    def __init__(self, problems: _Optional[_Iterable[_Union[PolicyProblem, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[PolicyProblem, _Mapping]]] = ...) -> None: ...

class PolicyProblem(_message.Message):
    __slots__ = ("line", "path", "message")
    LINE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    line: int
    path: str
    message: str
    def __init__(self, line: _Optional[int] = ..., path: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ExplainPlacementRequest(_message.Message):
    __slots__ = ("request_id", "adapter", "tenant", "prompt_token_count", "max_tokens", "priority", "is_local_only")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    IS_LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    adapter: str
    tenant: str
    prompt_token_count: int
    max_tokens: int
    priority: int
    is_local_only: bool
    def __init__(self, request_id: _Optional[str] = ..., adapter: _Optional[str] = ..., tenant: _Optional[str] = ..., prompt_token_count: _Optional[int] = ..., max_tokens: _Optional[int] = ..., priority: _Optional[int] = ..., is_local_only: _Optional[bool] = ...) -> None: ...

class ExplainPlacementResponse(_message.Message):
    __slots__ = ("story", "decision")
    STORY_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    story: RequestStory
    decision: PlacementDecision
    def __init__(self, story: _Optional[_Union[RequestStory, _Mapping]] = ..., decision: _Optional[_Union[PlacementDecision, _Mapping]] = ...) -> None: ...

class RequestStory(_message.Message):
    __slots__ = ("request_id", "tenant", "adapter", "adapter_digest", "arrival_time", "state", "policy_digest", "placements", "first_token_ms", "ended_ms", "prompt_token_count", "output_token_count", "error_reason", "error_message", "control_plane_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    ENDED_MS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_PLANE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    adapter: str
    adapter_digest: str
    arrival_time: _timestamp_pb2.Timestamp
    state: str
    policy_digest: str
    placements: _containers.RepeatedCompositeFieldContainer[PlacementStep]
    first_token_ms: float
    ended_ms: float
    prompt_token_count: int
    output_token_count: int
    error_reason: str
    error_message: str
    control_plane_id: str
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ..., adapter: _Optional[str] = ..., adapter_digest: _Optional[str] = ..., arrival_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[str] = ..., policy_digest: _Optional[str] = ..., placements: _Optional[_Iterable[_Union[PlacementStep, _Mapping]]] = ..., first_token_ms: _Optional[float] = ..., ended_ms: _Optional[float] = ..., prompt_token_count: _Optional[int] = ..., output_token_count: _Optional[int] = ..., error_reason: _Optional[str] = ..., error_message: _Optional[str] = ..., control_plane_id: _Optional[str] = ...) -> None: ...

class PlacementStep(_message.Message):
    __slots__ = ("worker_id", "placed_ms", "reason")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PLACED_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    placed_ms: float
    reason: str
    def __init__(self, worker_id: _Optional[str] = ..., placed_ms: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class PlacementDecision(_message.Message):
    __slots__ = ("worker_id", "profile", "picker", "emptied_by", "verdicts", "policy_name", "policy_digest")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    PICKER_FIELD_NUMBER: _ClassVar[int]
    EMPTIED_BY_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    POLICY_NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    profile: str
    picker: str
    emptied_by: str
    verdicts: _containers.RepeatedCompositeFieldContainer[WorkerVerdict]
    policy_name: str
    policy_digest: str
    def __init__(self, worker_id: _Optional[str] = ..., profile: _Optional[str] = ..., picker: _Optional[str] = ..., emptied_by: _Optional[str] = ..., verdicts: _Optional[_Iterable[_Union[WorkerVerdict, _Mapping]]] = ..., policy_name: _Optional[str] = ..., policy_digest: _Optional[str] = ...) -> None: ...

class WorkerVerdict(_message.Message):
    __slots__ = ("worker_id", "refused_by", "scores", "score")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BY_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    refused_by: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedCompositeFieldContainer[ScoreTerm]
    score: float
    def __init__(self, worker_id: _Optional[str] = ..., refused_by: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[_Union[ScoreTerm, _Mapping]]] = ..., score: _Optional[float] = ...) -> None: ...

class ScoreTerm(_message.Message):
    __slots__ = ("scorer", "weight", "value")
    SCORER_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    scorer: str
    weight: float
    value: float
    def __init__(self, scorer: _Optional[str] = ..., weight: _Optional[float] = ..., value: _Optional[float] = ...) -> None: ...

class CandidatePolicy(_message.Message):
    __slots__ = ("label", "yaml")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    label: str
    yaml: str
    def __init__(self, label: _Optional[str] = ..., yaml: _Optional[str] = ...) -> None: ...

class SimulatePoliciesRequest(_message.Message):
    __slots__ = ("trace", "policies", "worker_count", "seed", "costs", "service", "compressed_trace")
    class CostsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TRACE_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    WORKER_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_TRACE_FIELD_NUMBER: _ClassVar[int]
    trace: str
    policies: _containers.RepeatedCompositeFieldContainer[CandidatePolicy]
    worker_count: int
    seed: int
    costs: _containers.ScalarMap[str, float]
    service: str
    compressed_trace: bytes
    def __init__(self, trace: _Optional[str] = ..., policies: _Optional[_Iterable[_Union[CandidatePolicy, _Mapping]]] = ..., worker_count: _Optional[int] = ..., seed: _Optional[int] = ..., costs: _Optional[_Mapping[str, float]] = ..., service: _Optional[str] = ..., compressed_trace: _Optional[bytes] = ...) -> None: ...

class SimulatePoliciesResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[SimulatedOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[SimulatedOutcome, _Mapping]]] = ...) -> None: ...

class SimulatedOutcome(_message.Message):
    __slots__ = ("label", "request_count", "finished_count", "attainment", "satisfaction", "fairness", "first_token", "output_token", "output_tokens_per_s", "requests_per_s", "adapter_load_count", "adapter_fetch_count", "load_balance", "error_counts", "tenants", "duration_ms", "first_token_curve_ms", "output_token_counts", "prediction_error_ms")
    class ErrorCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    LABEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    ATTAINMENT_FIELD_NUMBER: _ClassVar[int]
    SATISFACTION_FIELD_NUMBER: _ClassVar[int]
    FAIRNESS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_LOAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FETCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOAD_BALANCE_FIELD_NUMBER: _ClassVar[int]
    ERROR_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_CURVE_MS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_ERROR_MS_FIELD_NUMBER: _ClassVar[int]
    label: str
    request_count: int
    finished_count: int
    attainment: float
    satisfaction: float
    fairness: float
    first_token: SimulatedTimes
    output_token: SimulatedTimes
    output_tokens_per_s: float
    requests_per_s: float
    adapter_load_count: int
    adapter_fetch_count: int
    load_balance: float
    error_counts: _containers.ScalarMap[str, int]
    tenants: _containers.RepeatedCompositeFieldContainer[SimulatedTenant]
    duration_ms: float
    first_token_curve_ms: _containers.RepeatedScalarFieldContainer[float]
    output_token_counts: _containers.RepeatedScalarFieldContainer[int]
    prediction_error_ms: float
    def __init__(self, label: _Optional[str] = ..., request_count: _Optional[int] = ..., finished_count: _Optional[int] = ..., attainment: _Optional[float] = ..., satisfaction: _Optional[float] = ..., fairness: _Optional[float] = ..., first_token: _Optional[_Union[SimulatedTimes, _Mapping]] = ..., output_token: _Optional[_Union[SimulatedTimes, _Mapping]] = ..., output_tokens_per_s: _Optional[float] = ..., requests_per_s: _Optional[float] = ..., adapter_load_count: _Optional[int] = ..., adapter_fetch_count: _Optional[int] = ..., load_balance: _Optional[float] = ..., error_counts: _Optional[_Mapping[str, int]] = ..., tenants: _Optional[_Iterable[_Union[SimulatedTenant, _Mapping]]] = ..., duration_ms: _Optional[float] = ..., first_token_curve_ms: _Optional[_Iterable[float]] = ..., output_token_counts: _Optional[_Iterable[int]] = ..., prediction_error_ms: _Optional[float] = ...) -> None: ...

class SimulatedTimes(_message.Message):
    __slots__ = ("p50_ms", "p90_ms", "p99_ms", "mean_ms")
    P50_MS_FIELD_NUMBER: _ClassVar[int]
    P90_MS_FIELD_NUMBER: _ClassVar[int]
    P99_MS_FIELD_NUMBER: _ClassVar[int]
    MEAN_MS_FIELD_NUMBER: _ClassVar[int]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    def __init__(self, p50_ms: _Optional[float] = ..., p90_ms: _Optional[float] = ..., p99_ms: _Optional[float] = ..., mean_ms: _Optional[float] = ...) -> None: ...

class SimulatedTenant(_message.Message):
    __slots__ = ("tenant", "request_count", "attainment", "error_count", "output_token_count")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    ATTAINMENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    request_count: int
    attainment: float
    error_count: int
    output_token_count: int
    def __init__(self, tenant: _Optional[str] = ..., request_count: _Optional[int] = ..., attainment: _Optional[float] = ..., error_count: _Optional[int] = ..., output_token_count: _Optional[int] = ...) -> None: ...
