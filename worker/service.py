"""The worker put together: what is made of its configuration, in which order, and how it ends."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import grpc.aio
import torch

from worker.adapters.fetcher import Fetcher, FetchLimits
from worker.adapters.host_cache import HostCache, HostCacheLimits
from worker.adapters.store_client import GrpcWeightsStore
from worker.codec import lease_to_json
from worker.config import WorkerConfig
from worker.engine_process.build import EngineSpec, build_from_spec
from worker.engine_process.messages import EngineFacts
from worker.launch import Launch
from worker.lease import Lease
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import PageGeometry
from worker.memory.storage import page_size_bytes
from worker.model.config import ModelConfig, read_config
from worker.server import WorkerServer, WorkerServicer
from worker.serving.desk import DeskLimits, RequestDesk
from worker.serving.residency import ResidencyBoard
from worker.serving.status import StatusBoard
from worker.text.vocabulary import load_vocabulary
from worker.types import EngineStats, WorkerStatus

_log = logging.getLogger("worker")

_MAX_DEFAULT_HOST_CACHE_BYTES = 1024**3


async def serve(config: WorkerConfig, launch: Launch, stop: asyncio.Event, ready: Callable[[str], None]) -> int:
    """Runs a worker in what `launch` began, until `stop` is set or its engine is gone, and returns the exit code.

    `ready` is called with the address once it serves.

    Raises:
        WorkerError: What has to change in the configuration, the model directory or the machine.
    """
    async with AsyncExitStack() as parts:
        torch.set_num_threads(1)  # adapters are packed here, beside the event loop
        model = read_config(config.model.path)
        arena = _make_arena(config, model, launch.arena_file)
        engine = launch.engine
        vocabulary, _ = await asyncio.gather(
            asyncio.to_thread(load_vocabulary, config.model.path), _build_engine(config, model, launch, arena.num_pages)
        )

        board = ResidencyBoard()
        host = await parts.enter_async_context(_host_cache(config, arena, _geometry(config, model), board))
        fixed_status = _fixed_status(config, engine.facts)
        status = StatusBoard(fixed_status, board)
        limits = DeskLimits(config.window(engine.facts.max_running), config.message_tokens)
        desk = RequestDesk(limits, engine.facts, engine, vocabulary, host, status)
        engine.listen(desk)

        server = WorkerServer(WorkerServicer(desk, status, config.model.served_name), config)
        address = await server.start()
        parts.push_async_callback(server.stop)
        await parts.enter_async_context(_running(_tell_status(desk, config.status_interval_s)))
        async with _lease(config, engine.facts, fixed_status, address):
            ready(address)
            await _first_of(stop.wait(), engine.wait_gone())
        await server.set_serving(serving=False)
        desk.start_draining()
        with suppress(TimeoutError):
            async with asyncio.timeout(config.crash_flush_s if desk.has_lost_engine else config.drain_seconds):
                await desk.wait_empty()
        return 1 if desk.has_lost_engine else 0


def _geometry(config: WorkerConfig, model: ModelConfig) -> PageGeometry:
    return PageGeometry(model.shape, config.engine.block_size)


def _device(config: WorkerConfig) -> str:
    if config.model.device != "auto":
        return config.model.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(config: WorkerConfig, model: ModelConfig) -> torch.dtype:
    name: str = config.model.dtype
    if name == "auto":
        name = "float32" if _device(config) == "cpu" else model.dtype
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def _make_arena(config: WorkerConfig, model: ModelConfig, file: ArenaFile) -> HostArena:
    """The memory that both processes share."""
    num_bytes = config.host_cache_bytes or min(file.free_bytes // 2, _MAX_DEFAULT_HOST_CACHE_BYTES)
    geometry, dtype = _geometry(config, model), _dtype(config, model)
    return HostArena.create(file, num_bytes // page_size_bytes(geometry, dtype), geometry, dtype)


async def _build_engine(config: WorkerConfig, model: ModelConfig, launch: Launch, num_arena_pages: int) -> None:
    spec = EngineSpec(
        model_path=config.model.path.resolve(),
        load_format=config.model.load_format,
        dtype=str(_dtype(config, model)).removeprefix("torch."),
        device=_device(config),
        engine=config.engine,
        pool_bytes=config.pool_bytes,
        pool_memory_share=config.pool_memory_share,
        num_threads=config.num_threads,
        arena_descriptor=launch.arena_file.descriptor,
        num_arena_pages=num_arena_pages,
    )
    await launch.engine.build(partial(build_from_spec, spec), timeout_s=config.engine_start_s)


@asynccontextmanager
async def _host_cache(
    config: WorkerConfig, arena: HostArena, geometry: PageGeometry, board: ResidencyBoard
) -> AsyncIterator[HostCache | None]:
    """Adapters in host memory, and the way to the store; none if there is no store."""
    if not config.store_address:
        yield None
        return
    fetch = config.fetch
    options = [("grpc.max_receive_message_length", config.max_message_bytes)]
    async with grpc.aio.insecure_channel(config.store_address, options=options) as channel:
        limits = FetchLimits(fetch.max_adapter_bytes, fetch.max_attempts, fetch.backoff_s, fetch.deadline_s)
        cache = HostCache(
            arena,
            geometry,
            config.model.served_name,
            Fetcher(GrpcWeightsStore(channel), limits),
            HostCacheLimits(fetch.max_loads, fetch.max_prefetches, fetch.room_timeout_s),
            lambda digest, hosted: board.set_host(digest, resident=hosted),
        )
        try:
            yield cache
        finally:
            await cache.close()


def _fixed_status(config: WorkerConfig, facts: EngineFacts) -> WorkerStatus:
    return WorkerStatus(
        worker_id=config.worker_id,
        base_model=config.model.served_name,
        request_window=config.window(facts.max_running),
        page_size_bytes=facts.page_size_bytes,
        block_size=facts.block_size,
        stats=EngineStats(total_pages=facts.total_pages, free_pages=facts.total_pages),
        labels=config.labels,
        tenants=config.tenants,
    )


async def _tell_status(desk: RequestDesk, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        desk.request_status()


@asynccontextmanager
async def _lease(config: WorkerConfig, facts: EngineFacts, status: WorkerStatus, address: str) -> AsyncIterator[None]:
    """Lets control planes find the worker, if there is a Redis to tell them."""
    if not config.redis.url:
        yield
        return
    value = lease_to_json(
        status,
        address=config.advertise_address or address,
        context_length=facts.context_length,
        start_time_ms=int(time.time() * 1000),
    )
    lease = Lease(config.redis, config.worker_id, value)
    try:
        async with _running(lease.hold()):
            yield
    finally:
        await lease.drop()


@asynccontextmanager
async def _running(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Runs `work` beside the block, and cancels it at its end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _first_of(*waits: Coroutine[object, object, object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
