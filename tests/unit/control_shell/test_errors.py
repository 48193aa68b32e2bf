import inspect
import math

import pytest
from google.rpc import error_details_pb2

from control_plane import errors as shell_errors
from control_plane.core import errors as core_errors
from control_plane.core.errors import RequestError, Status, WorkerRequestFailed
from control_plane.core.types import WorkerFailure
from control_plane.errors import GRPC_STATUS, InvalidRequest, status_details


def subclasses(base: type[RequestError]) -> list[type[RequestError]]:
    return [found for child in base.__subclasses__() for found in (child, *subclasses(child))]


ABSTRACT = {InvalidRequest}
CLASSES = [found for found in subclasses(RequestError) if found not in ABSTRACT]


def make(error_class: type[RequestError]) -> RequestError:
    if error_class is WorkerRequestFailed:
        return WorkerRequestFailed(WorkerFailure("r", code=3, reason="ADAPTER_CORRUPT", message="broken"))
    if issubclass(error_class, InvalidRequest):
        return error_class("prompt", "is wrong")
    return error_class("is wrong")


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda found: found.__name__)
def test_every_error_has_a_status_and_a_reason_of_its_own(error_class: type[RequestError]) -> None:
    error = make(error_class)
    assert error.status in GRPC_STATUS
    assert error.reason.isupper()
    assert error.reason.replace("_", "").isalnum()
    details = status_details(error)
    info = error_details_pb2.ErrorInfo()
    assert details.details[0].Unpack(info)
    assert (details.code, info.domain, info.reason) == (error.status.value, "multitude", error.reason)
    assert info.metadata == error.metadata


def test_every_error_class_of_both_modules_is_covered() -> None:
    declared = {
        found
        for module in (shell_errors, core_errors)
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, RequestError)
    }
    assert declared - {RequestError} - ABSTRACT == set(CLASSES) & declared


def test_reasons_are_unique() -> None:
    reasons = [make(found).reason for found in CLASSES]
    assert len(reasons) == len(set(reasons))


def test_the_table_covers_every_status_with_the_code_of_its_name() -> None:
    assert {status: (code.name, code.value[0]) for status, code in GRPC_STATUS.items()} == {
        status: (status.name, status.value) for status in Status
    }


@pytest.mark.parametrize(
    ("delay_s", "milliseconds"), [(1.25, 1250), (-1.0, 0), (1e300, 86_400_000), (math.inf, 86_400_000)]
)
def test_a_delay_becomes_retry_info(delay_s: float, milliseconds: int) -> None:
    details = status_details(core_errors.QueueFull("full", retry_after_s=delay_s))
    retry = error_details_pb2.RetryInfo()
    assert details.details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == milliseconds
