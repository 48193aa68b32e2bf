"""Adapters on their way in over gRPC: what is refused, cut, stalled or crowded leaves nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from adapter_store.types import Module
from multitude.v1 import adapter_pb2 as pb
from multitude.v1.adapter_pb2_grpc import AdapterServiceStub
from tests.unit.adapter_store.peft_directories import adapter_tensors, tensor_name, to_safetensors, write_directory
from tests.unit.adapter_store.store_server import (
    config_file,
    file,
    header,
    leftovers,
    refusal,
    serving,
    until,
    upload,
    weights_file,
)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[AdapterServiceStub]:
    async with serving(tmp_path) as stub:
        yield stub


def replaced(name: str, array: np.ndarray | None) -> bytes:
    tensors = adapter_tensors()
    if array is None:
        del tensors[name]
    else:
        tensors[name] = array
    return to_safetensors(tensors)


A = tensor_name(1, Module.V, "A")
SOUND = to_safetensors(adapter_tensors())
ZERO = np.zeros((1, 1), np.float32)
MANY = to_safetensors(
    {f"base_model.model.model.layers.{i}.mlp.up_proj.lora_{half}.weight": ZERO for i in range(10_000) for half in "AB"}
)
MODULES_OF_MANY = ["q_proj", *(f"module{i}" for i in range(9_999))]

BAD_UPLOADS: dict[str, tuple[Iterable[pb.CreateAdapterRequest], str]] = {
    "nothing": ([], "UPLOAD_INCOMPLETE"),
    "header only": ([header()], "UPLOAD_INCOMPLETE"),
    "no header": (config_file(), "REQUEST_INVALID"),
    "two headers": ([header(), header()], "REQUEST_INVALID"),
    "empty message": ([header(), pb.CreateAdapterRequest()], "REQUEST_INVALID"),
    "bad id": ([header("name")], "REQUEST_INVALID"),
    "data before file": ([header(), pb.CreateAdapterRequest(data=b"x")], "REQUEST_INVALID"),
    "file twice": ([header(), *config_file(), *config_file()], "REQUEST_INVALID"),
    "other file": ([header(), *file("README.md", b"x")], "REQUEST_INVALID"),
    "path": ([header(), *file("../adapter_config.json", b"x")], "REQUEST_INVALID"),
    "negative size": ([header(), *file("adapter_config.json", b"", size=-1)], "REQUEST_INVALID"),
    "longer than announced": ([header(), *file("adapter_config.json", b"xx", size=1)], "REQUEST_INVALID"),
    "chunk too long": ([header(), *weights_file(b"x" * 1_100_000, chunk=1_100_000)], "REQUEST_INVALID"),
    "cut in the middle": (upload()[:-2], "UPLOAD_INCOMPLETE"),
    "cut between files": ([header(), *config_file()], "UPLOAD_INCOMPLETE"),
    "shorter than announced": (
        [header(), *file("adapter_config.json", b"{}", size=9), *weights_file()],
        "UPLOAD_INCOMPLETE",
    ),
    "too long": ([header(), *weights_file(b"", size=3_000_001)], "ADAPTER_TOO_LARGE"),
    "config too long": ([header(), *file("adapter_config.json", b"", size=1 << 30)], "ADAPTER_TOO_LARGE"),
    "pickle by name": ([header(), *config_file(), *file("adapter_model.bin", b"x")], "ADAPTER_NOT_SAFETENSORS"),
    "pickle by content": ([header(), *config_file(), *weights_file(b"PK\x03\x04" + SOUND)], "ADAPTER_NOT_SAFETENSORS"),
    "truncated": ([header(), *config_file(), *weights_file(SOUND[:-1])], "ADAPTER_FILE_CORRUPT"),
    "rubbish": ([header(), *config_file(), *weights_file(b"rubbish" * 9)], "ADAPTER_FILE_CORRUPT"),
    "empty weights": ([header(), *config_file(), *weights_file(b"")], "ADAPTER_FILE_CORRUPT"),
    "config no JSON": ([header(), *file("adapter_config.json", b"{"), *weights_file()], "ADAPTER_CONFIG_INVALID"),
    "empty config": ([header(), *file("adapter_config.json", b""), *weights_file()], "ADAPTER_CONFIG_INVALID"),
    "DoRA": (upload(use_dora=True), "ADAPTER_UNSUPPORTED"),
    "surrogate": (upload(task_type="\ud800"), "ADAPTER_UNSUPPORTED"),
    "wrong base model": (upload(base_model_name_or_path="other"), "BASE_MODEL_MISMATCH"),
    "wrong base model asserted": (upload(base_model="other"), "BASE_MODEL_MISMATCH"),
    "wrong shape": (
        [header(), *config_file(), *weights_file(replaced(A, np.zeros((4, 15), np.float32)))],
        "ADAPTER_SHAPE_MISMATCH",
    ),
    "wrong rank": (upload(r=5), "ADAPTER_SHAPE_MISMATCH"),
    "NaN": (
        [header(), *config_file(), *weights_file(replaced(A, np.full((4, 16), np.nan, np.float32)))],
        "ADAPTER_NOT_FINITE",
    ),
    "missing half": ([header(), *config_file(), *weights_file(replaced(A, None))], "ADAPTER_TENSOR_MISSING"),
    "not targeted": (upload(target_modules=["q_proj"]), "ADAPTER_TENSOR_UNEXPECTED"),
    "10,000 modules": ([header(), *config_file(), *weights_file(MANY, chunk=1 << 20)], "ADAPTER_TOO_LARGE"),
    "10,000 targets": (
        [header(), *config_file(target_modules=MODULES_OF_MANY), *weights_file()],
        "ADAPTER_TOO_LARGE",
    ),
}


async def test_bad_uploads_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, max_adapter_bytes=3_000_000) as stub:
        for name, (messages, expected) in BAD_UPLOADS.items():
            code, reason, message = await refusal(stub.CreateAdapter(iter(messages)))
            assert reason == expected, name
            is_mismatch = reason == "BASE_MODEL_MISMATCH"
            assert code == (grpc.StatusCode.FAILED_PRECONDITION if is_mismatch else grpc.StatusCode.INVALID_ARGUMENT)
            assert message
            assert leftovers(tmp_path) == [], name
        assert not (await stub.ListAdapters(pb.ListAdaptersRequest())).adapters
        assert (await stub.CreateAdapter(iter(upload()))).created  # the process is none the worse


async def test_cancelled_upload_leaves_nothing(stub: AdapterServiceStub, tmp_path: Path) -> None:
    call = stub.CreateAdapter()
    for message in upload()[:-1]:
        await call.write(message)
    await until(lambda: leftovers(tmp_path))
    call.cancel()
    await until(lambda: not list((tmp_path / "data" / "uploads").iterdir()))
    assert leftovers(tmp_path) == []
    assert not (await stub.ListAdapters(pb.ListAdaptersRequest())).adapters


async def test_stalled_upload_is_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, upload_idle_timeout_s=0.05) as stub:
        call = stub.CreateAdapter()
        for message in upload()[:-1]:
            await call.write(message)
        code, reason, _ = await refusal(call)
        assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_STALLED")
        assert leftovers(tmp_path) == []


async def test_upload_that_never_ends_is_ended(tmp_path: Path) -> None:
    async def drip() -> AsyncIterator[pb.CreateAdapterRequest]:
        for message in [header(), *config_file()]:
            yield message
        while True:
            for _ in range(100):  # so that few sends are under way when the answer comes
                await asyncio.sleep(0)
            yield pb.CreateAdapterRequest(data=b"")

    async with serving(tmp_path, upload_timeout_s=0.2) as stub:
        for _ in range(10):
            call = stub.CreateAdapter(drip())
            # Now and then gRPC's client tells of its own send, which came after the end, instead of the answer.
            if await call.code() is not grpc.StatusCode.INTERNAL:
                break
        _, reason, _ = await refusal(call)
        assert reason == "UPLOAD_STALLED"
        assert leftovers(tmp_path) == []


async def test_uploads_beyond_the_limit_are_told_to_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, max_concurrent_uploads=1) as stub:
        first = stub.CreateAdapter()
        await first.write(header())
        await until(lambda: list((tmp_path / "data" / "uploads").iterdir()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateAdapter()  # what is written to a call that has ended would hide how it ended
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
        for message in upload()[1:]:
            await first.write(message)
        await first.done_writing()
        assert (await first).created
        assert (await stub.CreateAdapter(iter(upload("team/other")))).created


async def test_concurrent_creates_of_one_id_are_one_version(tmp_path: Path) -> None:
    async with serving(tmp_path, max_concurrent_uploads=12) as stub:
        answers = await asyncio.gather(*(stub.CreateAdapter(iter(upload(seed=i % 3))) for i in range(12)))
        assert sum(answer.created for answer in answers) == 3
        adapter = (await stub.GetAdapter(pb.GetAdapterRequest(adapter_id="team/name"))).adapter
        assert {version.digest for version in adapter.versions} == {answer.version.digest for answer in answers}
        assert len(leftovers(tmp_path)) == 3


async def test_store_that_stops_ends_uploads_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as stub:
        call = stub.CreateAdapter()
        for message in upload()[:-1]:
            await call.write(message)
        await until(lambda: leftovers(tmp_path))
        await stub.store.stop()
        assert leftovers(tmp_path) == []
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_expressions_that_mean_the_same_are_one_version(stub: AdapterServiceStub) -> None:
    by_name = await stub.CreateAdapter(iter(upload()))
    by_expression = await stub.CreateAdapter(iter(upload(target_modules=r".*\.(q|v)_proj")))
    assert by_expression.version == by_name.version


async def test_import(stub: AdapterServiceStub, tmp_path: Path) -> None:
    write_directory(tmp_path / "root" / "one")
    write_directory(tmp_path / "outside")

    def request(path: str, adapter_id: str = "team/name") -> pb.ImportAdapterRequest:
        return pb.ImportAdapterRequest(adapter_id=adapter_id, source_uri=f"file://{tmp_path}/{path}")

    imported = await stub.ImportAdapter(request("root/one"))
    uploaded = await stub.CreateAdapter(iter(upload()))
    assert imported.created
    assert uploaded.version == imported.version
    for path, code, reason in [
        ("outside", grpc.StatusCode.PERMISSION_DENIED, "SOURCE_NOT_ALLOWED"),
        ("root/../outside", grpc.StatusCode.PERMISSION_DENIED, "SOURCE_NOT_ALLOWED"),
        ("root/two", grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND"),
    ]:
        assert (await refusal(stub.ImportAdapter(request(path))))[:2] == (code, reason)
    assert (await refusal(stub.ImportAdapter(request("root/one", "../../etc"))))[1] == "REQUEST_INVALID"
    assert len(leftovers(tmp_path)) == 1


async def test_full_disk_is_told(stub: AdapterServiceStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adapter_store.blobs.StagedBlob.write", fail)
        code, reason, _ = await refusal(stub.CreateAdapter(iter(upload())))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    assert leftovers(tmp_path) == []
