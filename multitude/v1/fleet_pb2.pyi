from multitude.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetFleetRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetFleetResponse(_message.Message):
    __slots__ = ("workers", "queued_count", "dispatched_count", "policy", "is_state_store_reachable")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISPATCHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    IS_STATE_STORE_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerView]
    queued_count: int
    dispatched_count: int
    policy: PolicyVersion
    is_state_store_reachable: bool
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerView, _Mapping]]] = ..., queued_count: _Optional[int] = ..., dispatched_count: _Optional[int] = ..., policy: _Optional[_Union[PolicyVersion, _Mapping]] = ..., is_state_store_reachable: _Optional[bool] = ...) -> None: ...

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
    __slots__ = ("name", "digest", "yaml", "pending_error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    YAML_FIELD_NUMBER: _ClassVar[int]
    PENDING_ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: str
    yaml: str
    pending_error: str
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[str] = ..., yaml: _Optional[str] = ..., pending_error: _Optional[str] = ...) -> None: ...

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
