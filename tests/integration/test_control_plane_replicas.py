"""Several control planes on one Redis: tenants' shares are added up, one that dies takes only its own streams along.

A Redis that is paused, cut off or replaced costs nobody a stream.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from control_plane.state.keys import Keys
from multitude.v1 import fleet_pb2
from tests.unit.control_shell.fake_worker import LENGTH, FakeWorker, Stream, token
from tests.unit.control_shell.redis_server import RedisServer, running_redis
from tests.unit.control_shell.running import TIMEOUT_S, Caller, error_info, eventually, serving
from tests.unit.control_shell.tiny_model import write_model

ROOT = Path(__file__).parents[2]
KEYS = Keys("f")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def shared(server: RedisServer, **settings: object) -> dict[str, object]:
    quick = {"publish_interval_s": 0.02, "share_interval_s": 0.02, "timeout_s": 5}
    return {"url": server.url, "fleet": "f", **quick, **settings}


def expected(prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    return [token(prompt, index) for index in range(num_tokens)]


async def put_lease(redis: Redis, worker: FakeWorker) -> None:
    await redis.set(f"{KEYS.prefix}worker:{worker.worker_id}", worker.lease_json())


@asynccontextmanager
async def replica(model_path: Path, server: RedisServer, name: str, ttl_s: float) -> AsyncIterator[Caller]:
    """A control plane as a process of its own; the caller's `process` may be killed."""
    settings = {
        "listen": "127.0.0.1:0",
        "control_plane_id": name,
        "model.path": model_path,
        "redis.url": server.url,
        "redis.fleet": "f",
        "redis.ttl_s": ttl_s,
        "redis.publish_interval_s": 0.05,
        "store_address": "",
        "drain_seconds": 0,
        "workers.lease_poll_s": 0.05,
    }
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "control_plane", *arguments), stdout=subprocess.PIPE, cwd=ROOT, env=os.environ
    )
    assert process.stdout is not None
    ready = (await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)).decode().split()
    caller = Caller(ready[2])
    caller.process = process  # type: ignore[attr-defined]
    try:
        yield caller
    finally:
        await caller.channel.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


async def streams_of(worker: FakeWorker, count: int) -> dict[str, Stream]:
    found = [await worker.next_stream() for _ in range(count)]
    return {stream.attach.control_plane_id: stream for stream in found}


async def test_a_control_plane_that_dies_takes_only_its_own_streams_along(
    model_path: Path, server: RedisServer, redis: Redis
) -> None:
    async with FakeWorker("a") as worker:
        await put_lease(redis, worker)
        async with (
            replica(model_path, server, "one", ttl_s=1.0) as first,
            serving(model_path, redis=shared(server, ttl_s=1.0), control_plane_id="two") as second,
        ):
            streams = await streams_of(worker, 2)
            lost = asyncio.create_task(first.generate((1,), request_id="lost", max_tokens=4))
            kept = asyncio.create_task(second.generate((2,), request_id="kept", max_tokens=4))
            await streams["one"].send_tokens(await streams["one"].next_request(), 0, 2)
            request = await streams["two"].next_request()
            await streams["two"].send_tokens(request, 0, 2)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.generate((1,), request_id="lost", max_tokens=1)
            assert error_info(caught.value).reason == "DUPLICATE_REQUEST"
            first.process.kill()  # type: ignore[attr-defined]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await lost
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            # The worker sees the stream end, and drops what came on it.
            await asyncio.wait_for(streams["one"].ended.wait(), TIMEOUT_S)
            assert not streams["two"].ended.is_set()
            await streams["two"].send_tokens(request, 2, 4, LENGTH)
            assert (await kept).token_ids == expected((2,), 4)

            async def claimed() -> asyncio.Task[object] | None:
                call = second.open((1,), request_id="lost", max_tokens=1)
                try:
                    await call.read()
                except grpc.aio.AioRpcError as error:
                    assert error_info(error).reason == "DUPLICATE_REQUEST"  # noqa: PT017
                    return None
                call.cancel()
                return asyncio.create_task(asyncio.sleep(0))

            await eventually(claimed)
            fleet = await second.fleet_is(lambda fleet: len(fleet.control_planes) == 1)
            assert fleet.control_planes[0].control_plane_id == "two"


async def test_what_tenants_got_and_used_is_shared(
    model_path: Path, server: RedisServer, redis: Redis, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "name: x\nscorers: [{name: load, weight: 1}]\n"
        "fairness:\n  quota_burst_s: 10\n  tenants: [{name: small, tokens_per_s: 1}]\n"
    )
    settings = {"redis": shared(server), "policy_file": policy, "tick_s": 0.01}
    async with (
        FakeWorker("a", is_generous=True) as worker,
        serving(model_path, control_plane_id="one", **settings) as first,
        serving(model_path, control_plane_id="two", **settings) as second,
    ):
        await put_lease(redis, worker)
        for caller in (first, second):
            await caller.workers_attached(1)
        await first.generate((1,), max_tokens=10, tenant="big")
        await second.generate((1, 2), max_tokens=5, tenant="big")

        async def counted() -> bool | None:
            # A prompt's token counts 1, an output's 2.
            amount = await redis.hget(KEYS.tenant_counters, "big")
            return True if amount is not None and float(amount) == 1 + 2 * 10 + 2 + 2 * 5 else None

        await eventually(counted)
        # Ten tokens may be used at once; they are used on the first control plane, and owed on both.
        await first.generate((1,), max_tokens=60, tenant="small")

        async def refused() -> grpc.aio.AioRpcError | None:
            call = second.open((1,), max_tokens=1, tenant="small")
            try:
                async for _ in call:
                    pass
            except grpc.aio.AioRpcError as error:
                return error
            return None

        error = await eventually(refused)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error_info(error).reason == "QUOTA_EXCEEDED"
        assert (await second.generate((1,), max_tokens=3, tenant="big")).token_ids == expected((1,), 3)


async def test_a_paused_redis_costs_no_stream_and_no_request(
    model_path: Path, server: RedisServer, redis: Redis
) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, redis=shared(server, timeout_s=0.05), workers={"lease_grace_s": 0.05}) as caller,
    ):
        await put_lease(redis, worker)
        stream = await worker.next_stream()
        running = asyncio.create_task(caller.generate((1,), max_tokens=4, request_id="r1"))
        request = await stream.next_request()
        await stream.send_tokens(request, 0, 2)
        server.pause()
        await caller.fleet_is(lambda fleet: not fleet.is_state_store_reachable)
        await stream.send_tokens(request, 2, 4, LENGTH)
        assert (await running).token_ids == expected((1,), 4)
        meanwhile = asyncio.create_task(caller.generate((2,), max_tokens=1, request_id="r2"))
        await stream.send_tokens(await stream.next_request(), 0, 1, LENGTH)
        assert (await meanwhile).token_ids == expected((2,), 1)
        server.resume()
        fleet = await caller.fleet_is(lambda fleet: fleet.is_state_store_reachable)
        assert fleet.workers[0].is_attached


async def test_a_failover_to_an_empty_redis_costs_no_stream_and_keeps_the_ids(
    model_path: Path, server: RedisServer, redis: Redis
) -> None:
    async with (
        FakeWorker("a") as worker,
        serving(model_path, redis=shared(server, ttl_s=0.5), control_plane_id="one") as first,
        serving(model_path, redis=shared(server, ttl_s=0.5), control_plane_id="two") as second,
    ):
        await put_lease(redis, worker)
        streams = await streams_of(worker, 2)
        await first.fleet_is(lambda fleet: fleet.is_state_store_reachable)
        running = asyncio.create_task(first.generate((1,), max_tokens=4, request_id="same"))
        request = await streams["one"].next_request()
        await streams["one"].send_tokens(request, 0, 2)
        server.kill()
        server.start()
        await redis.connection_pool.disconnect()
        await put_lease(redis, worker)

        async def owned() -> bool | None:
            return True if await redis.get(KEYS.request("same")) == "one" else None

        # The owner writes its claim again, so nobody else gets the id.
        await eventually(owned)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.generate((1,), request_id="same", max_tokens=1)
        assert error_info(caught.value).reason == "DUPLICATE_REQUEST"
        await streams["one"].send_tokens(request, 2, 4, LENGTH)
        assert (await running).token_ids == expected((1,), 4)


async def test_a_cut_connection_is_made_again(model_path: Path, server: RedisServer, redis: Redis) -> None:
    async with FakeWorker("a", is_generous=True) as worker, serving(model_path, redis=shared(server)) as caller:
        await put_lease(redis, worker)
        await caller.workers_attached(1)
        for number in range(5):
            await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            answer = await caller.generate((number,), max_tokens=3, request_id=f"r{number}")
            assert answer.token_ids == expected((number,), 3)
        await caller.fleet_is(lambda fleet: fleet.is_state_store_reachable)


async def test_every_command_and_script_stays_in_one_cluster_slot(model_path: Path) -> None:
    """A cluster's node refuses what spans slots."""
    with running_redis(is_cluster=True) as server:
        async with Redis.from_url(server.url, decode_responses=True) as redis:
            await redis.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))

            async def formed() -> bool | None:
                return True if "cluster_state:ok" in str(await redis.execute_command("CLUSTER", "INFO")) else None

            await eventually(formed)
            settings = {"redis": shared(server), "tick_s": 0.01}
            async with (
                FakeWorker("a") as worker,
                serving(model_path, control_plane_id="one", **settings) as first,
                serving(model_path, control_plane_id="two", **settings) as second,
            ):
                await put_lease(redis, worker)
                streams = await streams_of(worker, 2)
                running = asyncio.create_task(first.generate((1,), max_tokens=2, request_id="r", tenant="acme"))
                request = await streams["one"].next_request()
                await streams["one"].send_tokens(request, 0, 1)
                yaml = "name: x\nscorers: [{name: load, weight: 1}]\n"
                await second.fleet.ApplyPolicy(fleet_pb2.ApplyPolicyRequest(yaml=yaml))
                await second.fleet.RollBackPolicy(fleet_pb2.RollBackPolicyRequest(version=1))
                await first.fleet_is(lambda fleet: fleet.policy.version == 2 and len(fleet.control_planes) == 2)

                async def written() -> set[str] | None:
                    keys = [key async for key in redis.scan_iter()]
                    assert all(key.startswith(KEYS.prefix) for key in keys)
                    kinds = {key.removeprefix(KEYS.prefix).split(":")[0] for key in keys}
                    wanted = {"worker", "load", "request", "control_plane", "control_planes", "policies", "policy"}
                    return kinds if wanted | {"tenant_counters", "tenants", "lot"} <= kinds else None

                await eventually(written)
                await streams["one"].send_tokens(request, 1, 2, LENGTH)
                await running

                async def released() -> bool | None:
                    return None if await redis.exists(KEYS.request("r")) else True

                await eventually(released)
                assert (await first.get_fleet()).is_state_store_reachable


async def test_a_request_is_explained_by_the_control_plane_that_served_it(
    model_path: Path, server: RedisServer, redis: Redis
) -> None:
    async with (
        FakeWorker("a", is_generous=True) as worker,
        serving(model_path, redis=shared(server), control_plane_id="one") as first,
        serving(model_path, redis=shared(server), control_plane_id="two") as second,
        # One that is not where it says.
        serving(model_path, redis=shared(server), advertise_address="127.0.0.1:1", control_plane_id="three"),
    ):
        await put_lease(redis, worker)
        await first.workers_attached(1)
        await second.fleet_is(lambda fleet: len(fleet.control_planes) == 3)
        await first.generate((1,), max_tokens=2, request_id="mine")
        reply = await second.fleet.ExplainPlacement(fleet_pb2.ExplainPlacementRequest(request_id="mine"))
        assert (reply.story.state, reply.story.control_plane_id) == ("finished", "one")
        assert reply.decision.worker_id == "a"
        for message in (
            fleet_pb2.ExplainPlacementRequest(request_id="mine", is_local_only=True),
            fleet_pb2.ExplainPlacementRequest(request_id="nobody's"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.fleet.ExplainPlacement(message)
            assert error_info(caught.value).reason == "REQUEST_NOT_REMEMBERED"
