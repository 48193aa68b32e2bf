"""The adapter store over gRPC: a real server on a real port."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from adapter_store.library import Library
from adapter_store.server import CHUNK_BYTES, SERVICE_NAME
from adapter_store.types import Module
from multitude.v1 import adapter_pb2 as pb
from multitude.v1.adapter_pb2_grpc import AdapterServiceStub
from tests.unit.adapter_store.peft_directories import (
    adapter_config,
    adapter_tensors,
    read_canonical,
    write_directory,
)
from tests.unit.adapter_store.store_server import fetch, leftovers, refusal, serving, upload


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[AdapterServiceStub]:
    async with serving(tmp_path) as stub:
        yield stub


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
