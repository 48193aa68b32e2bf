import re

import pytest

from control_plane.core import errors
from control_plane.core.errors import RequestError, Status, WorkerRequestFailed, status_of
from control_plane.core.types import WorkerFailure

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, RequestError) and value not in (RequestError, WorkerRequestFailed)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_status_and_its_own_reason(kind: type[RequestError]) -> None:
    error = kind("do something else", metadata={"field": "x"}, retry_after_s=2.0)
    assert isinstance(error.status, Status)
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", error.reason)
    assert [other.reason for other in CLASSES].count(error.reason) == 1
    assert (str(error), error.message, error.metadata, error.retry_after_s) == ("do something else",) * 2 + (
        {"field": "x"},
        2,
    )


@pytest.mark.parametrize(
    ("code", "status"), [(3, Status.INVALID_ARGUMENT), (14, Status.UNAVAILABLE), (99, Status.UNKNOWN)]
)
def test_a_workers_failure_keeps_its_status_and_reason(code: int, status: Status) -> None:
    error = WorkerRequestFailed(WorkerFailure("r", code, "ADAPTER_CORRUPT", "send it again"))
    assert (error.status, error.reason, error.message) == (status, "ADAPTER_CORRUPT", "send it again")
    assert status_of(code) is status


def test_a_failure_without_reason_gets_one() -> None:
    assert WorkerRequestFailed(WorkerFailure("r", 13, "", "")).reason == "WORKER_FAILED"
