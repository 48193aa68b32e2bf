"""Every error class of the worker has a stable reason and a gRPC status."""

import importlib
import pickle
import pkgutil
import re
from collections.abc import Iterator

import grpc

import worker
from worker.errors import Code, RequestInvalidError, WorkerError


def all_subclasses(cls: type[WorkerError]) -> Iterator[type[WorkerError]]:
    for subclass in cls.__subclasses__():
        if subclass.__module__.startswith("worker."):
            yield subclass
        yield from all_subclasses(subclass)


def test_every_error_of_the_worker_has_a_reason_and_a_status() -> None:
    for module in pkgutil.walk_packages(worker.__path__, "worker."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = list(all_subclasses(WorkerError))
    assert classes
    for cls in classes:
        assert re.fullmatch(r"[A-Z][A-Z_]+[A-Z]", getattr(cls, "reason", "")), cls
        assert isinstance(getattr(cls, "code", None), Code), cls


def test_codes_are_those_of_grpc() -> None:
    numbers = {status.name: status.value[0] for status in grpc.StatusCode}
    assert all(numbers[code.name] == code.value for code in Code)


def test_an_error_survives_the_way_between_processes() -> None:
    error = RequestInvalidError("no such thing", field="batch.requests", request_id="r1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is RequestInvalidError
    assert (str(copy), copy.metadata) == ("no such thing", error.metadata)
