"""Workers that operators take out of service: on every control plane, through everything that befalls Redis."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from control_plane.state.keys import Keys
from control_plane.workers import drains
from multitude.v1 import fleet_pb2
from tests.unit.control_shell.fake_worker import FakeWorker
from tests.unit.control_shell.redis_server import RedisServer, running_redis
from tests.unit.control_shell.running import Caller, error_info, serving
from tests.unit.control_shell.tiny_model import write_model

KEY = Keys("f").draining


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url, decode_responses=True) as client:
        await client.flushall()
        yield client


def shared(server: RedisServer) -> dict[str, object]:
    return {"url": server.url, "fleet": "f", "publish_interval_s": 0.02, "timeout_s": 10}


async def drain(caller: Caller, worker_id: str, *, is_draining: bool = True) -> bool:
    request = fleet_pb2.DrainWorkerRequest(worker_id=worker_id, is_draining=is_draining)
    return (await caller.fleet.DrainWorker(request)).is_attached


async def draining_is(caller: Caller, *worker_ids: str) -> None:
    await caller.fleet_is(
        lambda fleet: [each.status.worker_id for each in fleet.workers if each.is_draining] == [*worker_ids]
    )


async def served_by(caller: Caller, *workers: FakeWorker) -> list[int]:
    """How many of a few requests each worker gets."""
    before = [len(worker.all_requests) for worker in workers]
    await asyncio.gather(*(caller.generate(max_tokens=2) for _ in range(6)))
    return [len(worker.all_requests) - count for worker, count in zip(workers, before, strict=True)]


async def test_a_worker_out_of_service_gets_nothing_from_any_control_plane(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with FakeWorker("a", is_generous=True) as a, FakeWorker("b", is_generous=True) as b:
        settings = {"redis": shared(redis_server), "workers": {"addresses": (a.address, b.address)}}
        async with serving(model_path, **settings) as first, serving(model_path, **settings) as second:
            for caller in (first, second):
                await caller.workers_attached(2)
            await drain(first, "a")
            # Who was asked has done it when it answers.
            assert [each.is_draining for each in (await first.get_fleet()).workers] == [True, False]
            assert await served_by(first, a, b) == [0, 6]
            await draining_is(second, "a")
            assert await served_by(second, a, b) == [0, 6]
            # One that starts later knows it from its first moment.
            async with serving(model_path, **settings) as third:
                await third.workers_attached(2)
                await draining_is(third, "a")
            await drain(second, "b")
            await drain(second, "a", is_draining=False)
            await draining_is(first, "b")
            assert await served_by(first, a, b) == [6, 0]


async def test_what_redis_loses_is_put_back(model_path: Path, redis: Redis, redis_server: RedisServer) -> None:
    async with FakeWorker("a", is_generous=True) as a, FakeWorker("b", is_generous=True) as b:
        settings = {"redis": shared(redis_server), "workers": {"addresses": (a.address, b.address)}}
        async with serving(model_path, **settings) as first, serving(model_path, **settings) as second:
            await first.workers_attached(2)
            await second.workers_attached(2)
            await drain(first, "a")
            await draining_is(second, "a")
            await redis.flushall()
            # Before anybody looked, another mark is set: the first is not lost for it.
            await drain(second, "b")
            await draining_is(first, "a", "b")
            await draining_is(second, "a", "b")
            assert await redis.smembers(KEY) == {"a", "b", "*"}
            for worker_id in ("a", "b"):
                await drain(first, worker_id, is_draining=False)
            await draining_is(second)
            assert await redis.smembers(KEY) == {"*"}


async def test_while_redis_is_away_nothing_changes(model_path: Path) -> None:
    with running_redis() as server:
        async with FakeWorker("a", is_generous=True) as a, FakeWorker("b", is_generous=True) as b:
            workers = {"addresses": (a.address, b.address)}
            async with serving(model_path, redis=shared(server), workers=workers) as caller:
                await caller.workers_attached(2)
                await drain(caller, "a")
                server.kill()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await drain(caller, "b")
                assert error_info(caught.value).reason == "STATE_UNAVAILABLE"
                await draining_is(caller, "a")
                assert await served_by(caller, a, b) == [0, 6]


async def test_without_redis_it_holds_here(model_path: Path) -> None:
    async with (
        FakeWorker("a", is_generous=True) as a,
        FakeWorker("b", is_generous=True) as b,
        serving(model_path, workers={"addresses": (a.address, b.address)}) as caller,
    ):
        assert not await drain(caller, "nosuch")
        await drain(caller, "b")
        await caller.workers_attached(2)
        assert await drain(caller, "b")
        await draining_is(caller, "b")
        assert await served_by(caller, a, b) == [6, 0]


@pytest.mark.parametrize("worker_id", ["", "a b", "*", "x" * 129])
async def test_ids_that_no_worker_has_are_refused(model_path: Path, worker_id: str) -> None:
    async with serving(model_path) as caller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(caller, worker_id)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(caught.value).reason == "WORKER_ID_INVALID"


async def test_marks_are_bounded(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "MAX_DRAINING", 2)
    async with serving(model_path) as caller:
        for worker_id in ("a", "b", "b"):
            await drain(caller, worker_id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drain(caller, "c")
        assert error_info(caught.value).reason == "DRAINS_FULL"
        await drain(caller, "a", is_draining=False)
        await drain(caller, "c")
