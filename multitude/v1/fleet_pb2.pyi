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
    __slots__ = ("address", "is_attached", "status", "dispatched_count")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IS_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    address: str
    is_attached: bool
    status: _worker_pb2.WorkerStatus
    dispatched_count: int
    def __init__(self, address: _Optional[str] = ..., is_attached: _Optional[bool] = ..., status: _Optional[_Union[_worker_pb2.WorkerStatus, _Mapping]] = ..., dispatched_count: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("problems",)
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    problems: _containers.RepeatedCompositeFieldContainer[PolicyProblem]
    def __init__(self, problems: _Optional[_Iterable[_Union[PolicyProblem, _Mapping]]] = ...) -> None: ...

class PolicyProblem(_message.Message):
    __slots__ = ("line", "path", "message")
    LINE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    line: int
    path: str
    message: str
    def __init__(self, line: _Optional[int] = ..., path: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
