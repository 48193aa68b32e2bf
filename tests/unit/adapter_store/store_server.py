"""A real adapter store on a real port, and what tests send to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from adapter_store.config import Config, Limits, ModelConfig
from adapter_store.server import CHUNK_BYTES, AdapterStore
from multitude.v1 import adapter_pb2 as pb
from multitude.v1.adapter_pb2_grpc import AdapterServiceStub
from tests.unit.adapter_store.peft_directories import (
    adapter_config,
    adapter_tensors,
    to_safetensors,
    write_base_model,
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
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub = AdapterServiceStub(channel)
            stub.channel, stub.store = channel, store
            yield stub
    finally:
        await store.stop()


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


async def until(condition: Callable[[], object]) -> None:
    """Lets the server run until `condition` holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the server's folder
            await asyncio.sleep(0)
