"""What control planes share through Redis, a Redis that goes away, and the end of the process."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from control_plane.state.keys import Keys
from multitude.v1 import worker_pb2
from tests.unit.control_shell.fake_worker import LENGTH, FakeWorker, token
from tests.unit.control_shell.redis_server import RedisServer, running_redis
from tests.unit.control_shell.running import TIMEOUT_S, Caller, error_info, eventually, serving
from tests.unit.control_shell.tiny_model import write_model

ROOT = Path(__file__).parents[2]


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


def shared(server: RedisServer, **settings: object) -> dict[str, object]:
    return {"url": server.url, "fleet": "f", "publish_interval_s": 0.02, "timeout_s": 10, **settings}


KEYS = Keys("f")


async def put_lease(redis: Redis, worker: FakeWorker) -> None:
    await redis.set(f"{KEYS.prefix}worker:{worker.worker_id}", worker.lease_json())


def expected(prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    return [token(prompt, index) for index in range(num_tokens)]


async def test_two_control_planes_find_and_share_the_workers(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        FakeWorker("a", is_generous=True) as one,
        FakeWorker("b", is_generous=True) as other,
        FakeWorker("c", base_model="another") as foreign,
        serving(model_path, redis=shared(redis_server)) as first,
        serving(model_path, redis=shared(redis_server)) as second,
    ):
        for worker in (one, other, foreign):
            await put_lease(redis, worker)
        await redis.set(f"{KEYS.prefix}worker:broken", "{")
        for caller in (first, second):
            await caller.workers_attached(2)
        calls = [
            caller.generate((number,), max_tokens=7, request_id=f"r{number}")
            for number, caller in enumerate([first, second] * 10)
        ]
        for number, answer in enumerate(await asyncio.gather(*calls)):
            assert answer.token_ids == expected((number,), 7)
        assert foreign.streams.empty()

        async def released() -> bool | None:
            return None if [key async for key in redis.scan_iter(match=f"{KEYS.prefix}request:*")] else True

        assert await eventually(released)


async def test_no_two_control_planes_serve_one_request_id(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, redis=shared(redis_server), control_plane_id="one") as first,
        serving(model_path, redis=shared(redis_server), control_plane_id="two") as second,
    ):
        await put_lease(redis, worker)
        streams = {}
        for _ in range(2):
            stream = await worker.next_stream()
            streams[stream.attach.control_plane_id] = stream
        await first.fleet_is(lambda fleet: fleet.is_state_store_reachable)
        await second.fleet_is(lambda fleet: fleet.is_state_store_reachable)
        running = asyncio.create_task(first.generate(request_id="same", max_tokens=1))
        request = await streams["one"].next_request()
        assert await redis.get(KEYS.request("same")) == "one"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.generate(request_id="same")
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        info = error_info(caught.value)
        assert (info.reason, info.metadata["control_plane_id"]) == ("DUPLICATE_REQUEST", "one")
        await streams["one"].send_tokens(request, 0, 1, LENGTH)
        await running

        async def free() -> bool | None:
            return True if await redis.get(KEYS.request("same")) is None else None

        await eventually(free)
        again = asyncio.create_task(second.generate(request_id="same", max_tokens=1))
        await streams["two"].send_tokens(await streams["two"].next_request(), 0, 1, LENGTH)
        await again


async def test_load_residency_and_itself_are_published(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(
            model_path,
            redis=shared(redis_server),
            workers={"addresses": (worker.address,)},
            control_plane_id="one",
        ) as caller,
    ):
        stream = await worker.next_stream()
        pool, host = worker_pb2.RESIDENCY_TIER_POOL, worker_pb2.RESIDENCY_TIER_HOST
        await stream.send_status(
            step_ms=7.5,
            residency=[
                worker_pb2.Residency(digest="sha256:1", tier=pool),
                worker_pb2.Residency(digest="sha256:2", tier=host),
            ],
        )

        async def published() -> dict[str, str] | None:
            return await redis.hgetall(KEYS.residency("a")) or None

        assert await eventually(published) == {"sha256:1": "pool", "sha256:2": "host"}
        load = json.loads(await redis.get(KEYS.load("a")))
        assert load["stepMs"] == 7.5
        assert "residency" not in load
        itself = json.loads(await redis.get(KEYS.control_plane("one")))
        fleet = await caller.get_fleet()
        assert itself == {
            "address": caller.address,
            "in_flight_count": 0,
            "policy_digest": fleet.policy.digest,
            "policy_version": 0,
        }
        assert [entry.digest for entry in fleet.workers[0].status.residency] == ["sha256:1", "sha256:2"]
        await stream.send_status(
            residency=[worker_pb2.Residency(digest="sha256:1", tier=worker_pb2.RESIDENCY_TIER_UNSPECIFIED)]
        )

        async def changed() -> bool | None:
            return True if await redis.hgetall(KEYS.residency("a")) == {"sha256:2": "host"} else None

        await eventually(changed)
        keys = (KEYS.load("a"), KEYS.residency("a"), KEYS.control_plane("one"))
        ttls = [await redis.pttl(key) for key in keys]
        assert len(ttls) == 3
        assert all(ttl > 0 for ttl in ttls)


async def test_serving_outlives_redis_and_publishes_again_when_it_is_back(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with running_redis() as server:
        async with (
            FakeWorker("a") as worker,
            Redis.from_url(server.url, decode_responses=True) as redis,
            serving(model_path, redis=shared(server), workers={"lease_grace_s": 0.1}, control_plane_id="one") as caller,
        ):
            await put_lease(redis, worker)
            stream = await worker.next_stream()
            await caller.fleet_is(lambda fleet: fleet.is_state_store_reachable and fleet.workers[0].is_attached)
            running = asyncio.create_task(caller.generate((1,), max_tokens=4, request_id="r1"))
            request = await stream.next_request()
            await stream.send_tokens(request, 0, 2)
            server.kill()
            await caller.fleet_is(lambda fleet: not fleet.is_state_store_reachable)
            await stream.send_tokens(request, 2, 4, LENGTH)
            assert (await running).token_ids == expected((1,), 4)
            meanwhile = asyncio.create_task(caller.generate((2,), max_tokens=1, request_id="r2"))
            await stream.send_tokens(await stream.next_request(), 0, 1, LENGTH)
            assert (await meanwhile).token_ids == expected((2,), 1)
            server.start()
            await put_lease(redis, worker)
            await caller.fleet_is(lambda fleet: fleet.is_state_store_reachable)

            async def published() -> bool | None:
                keys = (KEYS.load("a"), KEYS.control_planes, KEYS.control_plane("one"))
                return True if await redis.exists(*keys) == len(keys) else None

            await eventually(published)
            assert caplog.text.count("Redis cannot be reached") == 1
            assert caplog.text.count("Redis answers again") == 1
            assert "Traceback" not in caplog.text


async def test_a_worker_without_lease_finishes_and_gets_nothing_new(
    model_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, redis=shared(redis_server), workers={"lease_grace_s": 0.05}) as caller,
    ):
        await put_lease(redis, worker)
        stream = await worker.next_stream()
        running = asyncio.create_task(caller.generate((1,), max_tokens=2))
        request = await stream.next_request()
        await redis.delete(f"{KEYS.prefix}worker:a")

        async def gets_nothing() -> bool | None:
            call = caller.open((2,), max_tokens=1)
            await call.read()
            fleet = await caller.get_fleet()
            call.cancel()
            return True if fleet.queued_count else None

        await eventually(gets_nothing)
        await stream.send_tokens(request, 0, 2, LENGTH)
        assert (await running).token_ids == expected((1,), 2)
        await worker.kill()
        await caller.fleet_is(lambda fleet: not fleet.workers)
        await worker.start()
        await put_lease(redis, worker)
        await caller.workers_attached(1)


async def test_sigterm_lets_requests_end_and_takes_no_new_ones(model_path: Path) -> None:
    async with FakeWorker("a") as worker:
        settings = {
            "listen": "127.0.0.1:0",
            "model.path": model_path,
            "redis.url": "",
            "store_address": "",
            "workers.addresses": f"[{worker.address}]",
        }
        arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "control_plane", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ,
        )
        assert process.stdout is not None
        ready = (await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)).decode().split()
        assert ready[:2] == ["ready", "control_plane"]
        caller = Caller(ready[2])
        stream = await worker.next_stream()
        running = asyncio.create_task(caller.generate((1,), max_tokens=4))
        request = await stream.next_request()
        await stream.send_tokens(request, 0, 2)
        process.send_signal(signal.SIGTERM)

        async def refused() -> grpc.aio.AioRpcError | None:
            call = caller.open()
            try:
                await call.read()
            except grpc.aio.AioRpcError as error:
                return error
            call.cancel()
            return None

        error = await eventually(refused)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(error).reason == "DRAINING"
        await stream.send_tokens(request, 2, 4, LENGTH)
        assert (await running).token_ids == expected((1,), 4)
        _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        assert process.returncode == 0
        assert b"Traceback" not in stderr
        await caller.channel.close()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model.path": "/nowhere"}, "config.json does not exist"),
        ({"policy_file": "/nowhere.yaml"}, "policy_file: /nowhere.yaml cannot be read"),
        ({"listen": "256.0.0.1:1"}, "listen: cannot listen on 256.0.0.1:1"),
        ({"metrics.listen": "256.0.0.1:1"}, "metrics.listen: cannot listen on 256.0.0.1:1"),
    ],
)
async def test_what_hinders_a_start_is_one_line(model_path: Path, settings: dict[str, str], problem: str) -> None:
    everything = {"listen": "127.0.0.1:0", "model.path": str(model_path), "redis.url": "", **settings}
    arguments = [part for key, value in everything.items() for part in ("--set", f"{key}={value}")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "control_plane", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    assert process.returncode == 2
    assert stdout == b""
    lines = [line for line in stderr.decode().splitlines() if line.startswith("control_plane: ")]
    assert len(lines) == 1
    assert problem in lines[0]
    assert b"Traceback" not in stderr
