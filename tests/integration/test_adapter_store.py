"""The adapter store over gRPC: a real server on a real port."""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from adapter_store.config import Config, Limits, ModelConfig
from adapter_store.library import Library
from adapter_store.server import CHUNK_BYTES, SERVICE_NAME, AdapterStore
from adapter_store.types import Module
from multitude.v1 import adapter_pb2 as pb
from multitude.v1.adapter_pb2_grpc import AdapterServiceStub
from tests.unit.adapter_store.peft_directories import (
    adapter_config,
    adapter_tensors,
    read_canonical,
    tensor_name,
    to_safetensors,
    write_base_model,
    write_directory,
)


@contextlib.asynccontextmanager
async def serving(folder: Path, drain_seconds: float = 0.0, **limits: Any) -> AsyncIterator[AdapterServiceStub]:
    model = write_base_model(folder / "demo")
    config = Config(
        listen="127.0.0.1:0",
        data_dir=folder / "data",
        model=ModelConfig(path=model),
        import_roots=(folder / "root",),
        limits=Limits(**limits),
        drain_seconds=drain_seconds,
    )
    store = AdapterStore(config)
    address = await store.start()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = AdapterServiceStub(channel)
        stub.channel = channel
        yield stub
    await store.stop()


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[AdapterServiceStub]:
    async with serving(tmp_path) as stub:
        yield stub


def header(adapter_id: str = "team/name", base_model: str = "") -> pb.CreateAdapterRequest:
    return pb.CreateAdapterRequest(header=pb.CreateAdapterHeader(adapter_id=adapter_id, base_model=base_model))


def file(name: str, content: bytes, size: int | None = None, chunk: int = 700) -> list[pb.CreateAdapterRequest]:
    start = pb.UploadFile(name=name, size_bytes=len(content) if size is None else size)
    chunks = [content[i : i + chunk] for i in range(0, len(content), chunk)]
    return [pb.CreateAdapterRequest(file=start), *(pb.CreateAdapterRequest(data=data) for data in chunks)]


def config_file(**changes: Any) -> list[pb.CreateAdapterRequest]:
    return file("adapter_config.json", json.dumps(adapter_config(**changes)).encode())


def weights_file(content: bytes | None = None, **options: Any) -> list[pb.CreateAdapterRequest]:
    content = to_safetensors(adapter_tensors()) if content is None else content
    return file("adapter_model.safetensors", content, **options)


def upload(
    adapter_id: str = "team/name", seed: int = 0, base_model: str = "", **changes: Any
) -> list[pb.CreateAdapterRequest]:
    weights = to_safetensors(adapter_tensors(seed=seed))
    return [header(adapter_id, base_model), *config_file(**changes), *weights_file(weights)]


async def refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, str]:
    """Status, reason and message of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "multitude"
    return caught.value.code(), info.reason, caught.value.details() or ""


def leftovers(folder: Path) -> list[str]:
    data = folder / "data"
    return [
        str(path) for part in ("uploads", "staging", "blobs") for path in (data / part).rglob("*") if path.is_file()
    ]


async def fetch(stub: AdapterServiceStub, digest: str, offset: int = 0) -> bytes:
    content = b""
    async for message in stub.FetchWeights(pb.FetchWeightsRequest(digest=digest, offset_bytes=offset)):
        assert message.offset_bytes == offset + len(content)
        assert len(message.data) <= CHUNK_BYTES
        content += message.data
    assert message.total_size_bytes == offset + len(content)
    return content


async def test_life_of_an_adapter(stub: AdapterServiceStub, tmp_path: Path) -> None:
    created = await stub.CreateAdapter(iter(upload()))
    assert created.created
    assert created.version.digest.startswith("sha256:")
    assert (created.version.rank, list(created.version.target_modules)) == (4, ["q", "v"])
    assert created.version.create_time.seconds > 1_700_000_000
    assert created.version.parameter_count == sum(array.size for array in adapter_tensors().values())
    assert created.adapter.latest == created.version
    again = await stub.CreateAdapter(iter(upload()))
    assert (again.created, again.version) == (False, created.version)
    second = await stub.CreateAdapter(iter(upload(seed=1)))
    assert list(second.adapter.versions) == [second.version, created.version]
    got = await stub.GetAdapter(pb.GetAdapterRequest(adapter_id="team/name"))
    assert got.adapter == second.adapter
    assert got.adapter.base_model == "demo"

    content = await fetch(stub, created.version.digest)
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == created.version.digest
    assert len(content) == created.version.size_bytes
    meaning, tensors = read_canonical(content)
    assert meaning["base_model"] == "demo"
    assert len(tensors) == 12

    deleted = await stub.DeleteAdapter(pb.DeleteAdapterRequest(adapter_id="team/name", digest=second.version.digest))
    assert deleted.deleted_version_count == 1
    assert (await stub.GetAdapter(pb.GetAdapterRequest(adapter_id="team/name"))).adapter.latest == created.version
    await stub.DeleteAdapter(pb.DeleteAdapterRequest(adapter_id="team/name"))
    code, reason, _ = await refusal(stub.GetAdapter(pb.GetAdapterRequest(adapter_id="team/name")))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ADAPTER_NOT_FOUND")
    code, reason, _ = await refusal(fetch(stub, created.version.digest))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    assert leftovers(tmp_path) == []


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


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the server's folder
            await asyncio.sleep(0)


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
            await asyncio.sleep(0.01)
            yield pb.CreateAdapterRequest(data=b"")

    async with serving(tmp_path, upload_timeout_s=0.2) as stub:
        _, reason, _ = await refusal(stub.CreateAdapter(drip()))
        assert reason == "UPLOAD_STALLED"
        assert leftovers(tmp_path) == []


async def test_uploads_beyond_the_limit_are_told_to_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path, max_concurrent_uploads=1) as stub:
        first = stub.CreateAdapter()
        await first.write(header())
        await until(lambda: list((tmp_path / "data" / "uploads").iterdir()))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateAdapter(iter(upload("team/other")))
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


@pytest.mark.parametrize(
    "adapter_id",
    ["", "name", "/name", "a/", "a//b", "a/b/c/d/e", "a/../b", "./a", "a/b\n", "ä/b", "a b/c", "a/" + "b" * 199],
)
async def test_bad_ids_are_refused(stub: AdapterServiceStub, adapter_id: str) -> None:
    code, reason, message = await refusal(stub.GetAdapter(pb.GetAdapterRequest(adapter_id=adapter_id)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID")
    assert "two to four parts" in message


async def test_pages(stub: AdapterServiceStub) -> None:
    ids = [f"{team}/{i}" for team in ("a", "b") for i in range(5)]
    for adapter_id in ids:
        await stub.CreateAdapter(iter(upload(adapter_id)))
    found: list[str] = []
    token = ""
    while True:
        page = await stub.ListAdapters(pb.ListAdaptersRequest(page_size=3, page_token=token, id_prefix="b/"))
        assert page.base_model == "demo"
        found += [adapter.adapter_id for adapter in page.adapters]
        assert all(adapter.latest.rank == 4 and not adapter.versions for adapter in page.adapters)
        token = page.next_page_token
        if not token:
            break
    assert found == ids[5:]
    assert len((await stub.ListAdapters(pb.ListAdaptersRequest())).adapters) == 10
    token = (await stub.ListAdapters(pb.ListAdaptersRequest(page_size=3))).next_page_token
    for request in [
        pb.ListAdaptersRequest(page_size=-1),
        pb.ListAdaptersRequest(page_size=1001),
        pb.ListAdaptersRequest(page_token="rubbish"),
        pb.ListAdaptersRequest(page_token="WzFd"),
        pb.ListAdaptersRequest(page_token="ä"),
        pb.ListAdaptersRequest(page_token=token, id_prefix="a/"),
        pb.ListAdaptersRequest(id_prefix="a" * 201),
    ]:
        assert (await refusal(stub.ListAdapters(request)))[1] == "REQUEST_INVALID"


async def test_fetch_resumes(tmp_path: Path) -> None:
    rank = 8192  # 2.4 MB: three chunks
    modules = {(0, Module.UP): rank, (1, Module.UP): rank}
    config = adapter_config(r=rank, target_modules=["up_proj"], layers_to_transform=[0, 1])
    write_directory(tmp_path / "root" / "big", config, adapter_tensors(modules))
    async with serving(tmp_path, max_rank=rank) as stub:
        request = pb.ImportAdapterRequest(adapter_id="team/big", source_uri=f"file://{tmp_path}/root/big")
        version = (await stub.ImportAdapter(request)).version
        content = await fetch(stub, version.digest)
        assert len(content) > 2 * CHUNK_BYTES
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == version.digest
        call = stub.FetchWeights(pb.FetchWeightsRequest(digest=version.digest))
        arrived = (await call.read()).data
        call.cancel()
        for offset in (len(arrived), 1, len(content) - 1, len(content)):
            assert content[:offset] + await fetch(stub, version.digest, offset) == content
        for offset in (-1, len(content) + 1):
            code, reason, _ = await refusal(fetch(stub, version.digest, offset))
            assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE")
        assert (await refusal(fetch(stub, "sha256:" + "0" * 64)))[1] == "VERSION_NOT_FOUND"
        for digest in ("", "sha256:0", "md5:" + "0" * 64, version.digest.upper()):
            assert (await refusal(fetch(stub, digest)))[1] == "REQUEST_INVALID"


async def test_who_is_fetching_reads_on_after_a_delete(tmp_path: Path) -> None:
    rank = 32_768  # more than what flow control lets through at once
    config = adapter_config(r=rank, target_modules=["up_proj"], layers_to_transform=0)
    write_directory(tmp_path / "root" / "big", config, adapter_tensors({(0, Module.UP): rank}))
    async with serving(tmp_path, max_rank=rank) as stub:
        request = pb.ImportAdapterRequest(adapter_id="team/big", source_uri=f"file://{tmp_path}/root/big")
        version = (await stub.ImportAdapter(request)).version
        call = stub.FetchWeights(pb.FetchWeightsRequest(digest=version.digest))
        content = (await call.read()).data
        await stub.DeleteAdapter(pb.DeleteAdapterRequest(adapter_id="team/big"))
        while (message := await call.read()) is not grpc.aio.EOF:
            content += message.data
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == version.digest
        assert leftovers(tmp_path) == []


async def test_delete_refusals(stub: AdapterServiceStub) -> None:
    await stub.CreateAdapter(iter(upload()))
    for request, expected in [
        (pb.DeleteAdapterRequest(adapter_id="team/other"), "ADAPTER_NOT_FOUND"),
        (pb.DeleteAdapterRequest(adapter_id="team/name", digest="sha256:" + "0" * 64), "VERSION_NOT_FOUND"),
        (pb.DeleteAdapterRequest(adapter_id="team/name", digest="x"), "REQUEST_INVALID"),
    ]:
        assert (await refusal(stub.DeleteAdapter(request)))[1] == expected


async def test_restart_keeps_everything_and_clears_what_was_left(tmp_path: Path) -> None:
    async with serving(tmp_path) as stub:
        version = (await stub.CreateAdapter(iter(upload()))).version
    for name in ("uploads/lost", "staging", "blobs/ab"):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name / "left").write_text("by a crash")
    async with serving(tmp_path) as stub:
        assert (await stub.GetAdapter(pb.GetAdapterRequest(adapter_id="team/name"))).adapter.latest == version
        assert len(await fetch(stub, version.digest)) == version.size_bytes
        assert len(leftovers(tmp_path)) == 1


async def test_own_mistakes_are_internal_and_the_store_goes_on(
    stub: AdapterServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(Library, "get", fail)
        code, reason, message = await refusal(stub.GetAdapter(pb.GetAdapterRequest(adapter_id="a/b")))
        assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in message
    assert (await refusal(stub.GetAdapter(pb.GetAdapterRequest(adapter_id="a/b"))))[1] == "ADAPTER_NOT_FOUND"


async def test_full_disk_is_told(stub: AdapterServiceStub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adapter_store.blobs.StagedBlob.write", fail)
        code, reason, _ = await refusal(stub.CreateAdapter(iter(upload())))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    assert leftovers(tmp_path) == []


async def test_health_and_reflection(stub: AdapterServiceStub) -> None:
    health = health_pb2_grpc.HealthStub(stub.channel)
    for service in ("", SERVICE_NAME):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(stub.channel)
    call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    services = {service.name for service in (await call.read()).list_services_response.service}
    assert services >= {SERVICE_NAME, "grpc.health.v1.Health"}
    assert SERVICE_NAME == "multitude.v1.AdapterService"
