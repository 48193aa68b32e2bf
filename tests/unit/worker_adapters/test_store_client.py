"""The fetcher over real gRPC, against a server that misbehaves as told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from adapters_for_tests import ref_to

from multitude.v1 import adapter_pb2, adapter_pb2_grpc
from worker.adapters.errors import AdapterCorrupt, AdapterNotFound, StoreFailed, StoreUnavailable
from worker.adapters.fetcher import Fetcher, FetchLimits
from worker.adapters.store_client import GrpcWeightsStore

DATA = bytes(range(251)) * 4000
REF = ref_to(DATA)
CHUNK = 256 * 1024
LIMITS = FetchLimits(max_bytes=1 << 21, max_attempts=3, backoff_seconds=0.01, deadline_seconds=20)


class ScriptedStore(adapter_pb2_grpc.AdapterServiceServicer):
    """Sends DATA; `before_chunk(offset, context)` may interfere."""

    def __init__(self) -> None:
        self.data = DATA
        self.offsets: list[int] = []
        self.before_chunk: Callable[[int, grpc.aio.ServicerContext], object] | None = None
        self.cancelled = asyncio.Event()

    async def FetchWeights(self, request, context) -> AsyncIterator[adapter_pb2.FetchWeightsResponse]:
        self.offsets.append(request.offset_bytes)
        if request.digest != REF.digest:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such version")
        try:
            for offset in range(request.offset_bytes, len(self.data), CHUNK):
                if self.before_chunk is not None:
                    await self.before_chunk(offset, context)
                yield adapter_pb2.FetchWeightsResponse(
                    offset_bytes=offset, data=self.data[offset : offset + CHUNK], total_size_bytes=len(self.data)
                )
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


async def serve(servicer: ScriptedStore, address: str = "127.0.0.1:0") -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    adapter_pb2_grpc.add_AdapterServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    await server.start()
    return server, f"127.0.0.1:{port}"


@asynccontextmanager
async def store_and_fetcher(limits: FetchLimits = LIMITS) -> AsyncIterator[tuple[ScriptedStore, Fetcher]]:
    servicer = ScriptedStore()
    server, address = await serve(servicer)
    async with grpc.aio.insecure_channel(address) as channel:
        yield servicer, Fetcher(GrpcWeightsStore(channel), limits)
    await server.stop(None)


async def test_fetches_in_chunks() -> None:
    async with store_and_fetcher() as (store, fetcher):
        assert await fetcher.fetch(REF) == DATA
        assert store.offsets == [0]


async def test_resumes_a_stream_that_was_cut_half_way() -> None:
    async with store_and_fetcher() as (store, fetcher):

        async def cut_once(offset: int, context: grpc.aio.ServicerContext) -> None:
            if offset == 2 * CHUNK and len(store.offsets) == 1:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")

        store.before_chunk = cut_once
        assert await fetcher.fetch(REF) == DATA
        assert store.offsets == [0, 2 * CHUNK]


async def test_survives_a_restart_of_the_store() -> None:
    servicer = ScriptedStore()
    server, address = await serve(servicer)
    reached, restarted = asyncio.Event(), asyncio.Event()

    async def hang(offset: int, context: grpc.aio.ServicerContext) -> None:
        if offset == CHUNK and len(servicer.offsets) == 1:
            reached.set()
            await asyncio.Event().wait()

    async def wait_for_restart(_: float) -> None:
        await restarted.wait()

    servicer.before_chunk = hang
    options = [("grpc.initial_reconnect_backoff_ms", 10), ("grpc.min_reconnect_backoff_ms", 10)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        fetching = asyncio.create_task(Fetcher(GrpcWeightsStore(channel), LIMITS, wait_for_restart).fetch(REF))
        await reached.wait()
        await server.stop(None)
        server, _ = await serve(servicer, address)
        while (state := channel.get_state(try_to_connect=True)) != grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)
        restarted.set()
        assert await fetching == DATA
    assert servicer.offsets == [0, CHUNK]
    await server.stop(None)


async def test_wrong_bytes_are_corrupt() -> None:
    async with store_and_fetcher() as (store, fetcher):
        store.data = DATA[:-1] + b"\0"
        with pytest.raises(AdapterCorrupt):
            await fetcher.fetch(REF)
        assert store.offsets == [0]


async def test_an_unknown_digest_is_not_found() -> None:
    async with store_and_fetcher() as (_, fetcher):
        with pytest.raises(AdapterNotFound, match="has no weights sha256:"):
            await fetcher.fetch(ref_to(b"other"))


async def test_another_status_is_not_tried_again() -> None:
    async with store_and_fetcher() as (store, fetcher):

        async def refuse(offset: int, context: grpc.aio.ServicerContext) -> None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")

        store.before_chunk = refuse
        with pytest.raises(StoreFailed, match="PERMISSION_DENIED: not for you"):
            await fetcher.fetch(REF)
        assert store.offsets == [0]


async def test_no_store_at_all_is_unavailable() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await Fetcher(GrpcWeightsStore(channel), LIMITS).fetch(REF)


async def test_a_cancelled_fetch_cancels_the_stream() -> None:
    async with store_and_fetcher() as (store, fetcher):
        reached = asyncio.Event()

        async def hang(offset: int, context: grpc.aio.ServicerContext) -> None:
            reached.set()
            await asyncio.Event().wait()

        store.before_chunk = hang
        fetching = asyncio.create_task(fetcher.fetch(REF))
        await reached.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        await asyncio.wait_for(store.cancelled.wait(), timeout=10)
