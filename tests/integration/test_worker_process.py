"""A worker as its operator sees it: how it starts, refuses to start, stops, and is lost."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from multitude.v1 import sampling_pb2, worker_pb2, worker_pb2_grpc
from tests.integration.worker_world import CONTEXT_LENGTH, TREE, wait_gone, worker_process, write_model
from tests.unit.control_shell.redis_server import RedisServer
from tests.unit.worker_server.bench import ControlPlane, request
from worker.config import load_config
from worker.errors import WorkerError
from worker.launch import launched
from worker.server import SERVICE_NAME
from worker.service import serve

PROMPT = (65, 66, 67)
LEASE_KEY = "{multitude:default}:worker:w1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_model(folder)
    return folder


@asynccontextmanager
async def attached(address: str) -> AsyncIterator[ControlPlane]:
    async with grpc.aio.insecure_channel(address) as channel:
        control_plane = ControlPlane(worker_pb2_grpc.WorkerServiceStub(channel).Dispatch())
        await control_plane.attach(credits=1_000_000)
        yield control_plane


async def until_finished(control_plane: ControlPlane, request_id: str) -> int:
    while True:
        for output in (await control_plane.read()).step.outputs:
            if output.request_id == request_id and output.finish_reason:
                return output.finish_reason


def long_request(request_id: str) -> worker_pb2.DispatchedRequest:
    stop = sampling_pb2.StopConditions(ignore_eos=True)
    return request(request_id, PROMPT, max_tokens=CONTEXT_LENGTH, stop=stop)


async def test_sigterm_lets_requests_end_and_leaves_nothing(model: Path) -> None:
    with worker_process(model__path=model) as worker:
        async with attached(worker.wait_ready()) as control_plane:
            engine_pid = worker.engine_pid
            await control_plane.send(long_request("r"))
            await control_plane.read_ack()
            worker.process.send_signal(signal.SIGTERM)
            assert await until_finished(control_plane, "r") == sampling_pb2.FINISH_REASON_LENGTH
            assert await control_plane.read_code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(worker.wait) == 0
        wait_gone(engine_pid)
        assert "Traceback" not in worker.log


def test_a_worker_killed_while_it_starts_leaves_nothing(model: Path, tmp_path: Path) -> None:
    with worker_process(model__path=model, host_cache_dir=tmp_path) as worker:
        engine_pid = worker.wait_engine()
        worker.process.kill()
        wait_gone(engine_pid)
        assert list(tmp_path.iterdir()) == []


def test_what_a_worker_begins_with_waits_for_no_torch() -> None:
    code = "import sys, worker.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=TREE, check=False).returncode == 0


def test_a_stop_before_it_serves_is_quiet(model: Path) -> None:
    with worker_process(model__path=model) as worker:
        worker.wait_log("configuration:")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in worker.log


async def test_a_killed_engine_is_a_typed_failure_and_the_workers_end(model: Path) -> None:
    with worker_process(model__path=model) as worker:
        address = worker.wait_ready()
        async with grpc.aio.insecure_channel(address) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        async with attached(address) as control_plane:
            os.kill(worker.engine_pid, signal.SIGSTOP)  # so that the request is in flight when it dies
            await control_plane.send(long_request("r"))
            await control_plane.read_ack()
            os.kill(worker.engine_pid, signal.SIGKILL)
            failures: list[worker_pb2.RequestFailure] = []
            while not failures:
                failures += (await control_plane.read()).step.failures
            assert [(f.request_id, f.reason, f.retryable) for f in failures] == [("r", "ENGINE_CRASHED", True)]
            assert "killed by signal 9" in failures[0].message
            assert await control_plane.read_code() is grpc.StatusCode.UNAVAILABLE
        assert await asyncio.to_thread(worker.wait) == 1


async def test_a_killed_worker_takes_its_engine_along(model: Path) -> None:
    with worker_process(model__path=model) as worker:
        async with attached(worker.wait_ready()) as control_plane:
            engine_pid = worker.engine_pid
            await control_plane.send(long_request("r"))
            await control_plane.read_ack()
            worker.process.kill()
        await asyncio.to_thread(wait_gone, engine_pid)


async def test_the_lease_comes_goes_and_outlives_redis(model: Path, tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    client = redis.Redis(unix_socket_path=str(server.path))
    try:
        with worker_process(model__path=model, redis__url=server.url, redis__lease_ttl_s=0.6) as worker:
            address = worker.wait_ready()
            lease = await _lease(client)
            assert lease["workerId"] == "w1"
            assert lease["address"] == address
            assert lease["baseModel"] == "tiny"
            assert lease["contextLength"] == CONTEXT_LENGTH
            assert 0 < client.pttl(LEASE_KEY) <= 600

            server.kill()
            async with attached(address) as control_plane:
                await control_plane.send(long_request("r"))
                assert await until_finished(control_plane, "r")
            await asyncio.to_thread(worker.wait_log, "Redis cannot be reached")
            server.start()
            assert (await _lease(client))["startTimeMs"] == lease["startTimeMs"]
            os.killpg(worker.process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
            assert await asyncio.to_thread(worker.wait) == 0
            assert client.get(LEASE_KEY) is None
            assert "Traceback" not in worker.log
            assert worker.log.count("Redis cannot be reached") == 1
    finally:
        client.close()
        server.kill()


async def _lease(client: redis.Redis) -> dict[str, object]:
    """Waits for it, and for Redis if need be."""
    async with asyncio.timeout(20):
        while True:
            try:
                if (value := client.get(LEASE_KEY)) is not None:
                    return json.loads(value)
            except redis.ConnectionError:
                pass
            await asyncio.sleep(0)  # another process's doing, which nothing announces


def _without(model: Path, folder: Path, name: str) -> Path:
    shutil.copytree(model, folder)
    (folder / name).unlink()
    return folder


def _with_config(model: Path, folder: Path, **changes: object) -> Path:
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


BAD_SETTINGS: list[tuple[Callable[[Path, Path], dict[str, object]], str]] = [
    (lambda model, _: {"model.path": model / "nowhere"}, "is not a directory"),
    (lambda model, tmp: {"model.path": _without(model, tmp / "m", "tokenizer.json")}, "tokenizer.json is missing"),
    (lambda model, tmp: {"model.path": _without(model, tmp / "m", "model.safetensors")}, "safetensors"),
    (lambda model, tmp: {"model.path": _with_config(model, tmp / "m", architectures=["GPT2"])}, "GPT2 is not supp"),
    (lambda model, _: {"model.path": model, "pool_bytes": 1000}, "set at least"),
    (lambda model, _: {"model.path": model, "host_cache_bytes": 10}, "host cache"),
    (lambda model, _: {"model.path": model, "redis.url": "http://nowhere"}, "redis.url"),
    (lambda model, _: {"model.path": model, "listen": "256.0.0.1:1"}, "cannot listen on 256.0.0.1:1"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS, ids=[message for _, message in BAD_SETTINGS])
async def test_what_cannot_be_served_is_one_clear_line(
    model: Path, tmp_path: Path, settings: Callable[[Path, Path], dict[str, object]], message: str
) -> None:
    values = {"redis.url": "", "host_cache_bytes": 1 << 20, "pool_bytes": 1 << 20, "listen": "127.0.0.1:0"}
    values |= settings(model, tmp_path)
    config = load_config([word for name, value in values.items() for word in ("--set", f"{name}={value}")])
    with pytest.raises(WorkerError) as caught:
        async with launched(config) as launch:
            await serve(config, launch, asyncio.Event(), pytest.fail)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"model.path": "/nowhere"}, "/nowhere is not a directory"), ({"typo": 1}, "typo: unknown setting")],
)
def test_a_worker_that_cannot_start_ends_with_2(model: Path, settings: dict[str, object], message: str) -> None:
    with worker_process(**{"model.path": model} | settings) as worker:
        assert worker.wait() == 2
        (line,) = [line for line in worker.log.splitlines() if " INFO " not in line]
        assert message in line
