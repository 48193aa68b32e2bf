"""A Redis that dies, and its replica that a Sentinel puts in its place: nobody loses a stream, a claim or a lease."""

import asyncio
from pathlib import Path

import grpc
import pytest

from control_plane.config import ConfigError, load_config
from control_plane.state.keys import Keys
from tests.unit.control_shell.fake_worker import LENGTH, FakeWorker, token
from tests.unit.control_shell.redis_sentinel import GROUP, PASSWORD, running_sentinel
from tests.unit.control_shell.running import error_info, eventually, serving
from tests.unit.control_shell.tiny_model import write_model
from worker.config import RedisSection
from worker.lease import Lease

KEYS = Keys("f")
# The host is nowhere: only the Sentinel knows where the servers are.
URL = f"redis://:{PASSWORD}@nowhere.invalid/0"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


async def test_a_replica_takes_the_place_of_a_primary_that_dies(model_path: Path) -> None:
    async with running_sentinel() as group, FakeWorker("a") as worker:
        found = {"url": URL, "fleet": "f", "sentinels": (group.sentinel,), "sentinel_group": GROUP}
        quick = {"publish_interval_s": 0.02, "share_interval_s": 0.02, "timeout_s": 1, "ttl_s": 5}
        lease = Lease(RedisSection(**found, timeout_s=1, lease_ttl_s=1), "a", worker.lease_json())
        holding = asyncio.create_task(lease.hold())
        async with (
            serving(model_path, redis=found | quick, control_plane_id="one") as first,
            serving(model_path, redis=found | quick, control_plane_id="two") as second,
            group.client(1) as promoted,
        ):
            streams = [await worker.next_stream() for _ in range(2)]
            stream = next(each for each in streams if each.attach.control_plane_id == "one")
            running = asyncio.create_task(first.generate((1,), max_tokens=4, request_id="same"))
            request = await stream.next_request()
            await stream.send_tokens(request, 0, 2)

            group.primary.kill()
            await first.fleet_is(lambda fleet: not fleet.is_state_store_reachable)
            await stream.send_tokens(request, 2, 3)

            async def is_primary() -> bool | None:
                return True if (await promoted.info("replication"))["role"] == "master" else None

            await eventually(is_primary)
            for caller in (first, second):
                fleet = await caller.fleet_is(lambda fleet: fleet.is_state_store_reachable)
                assert fleet.workers[0].is_attached
            # Claim and lease are there, and are written again from now on.
            assert await promoted.get(KEYS.request("same")) == "one"
            await promoted.delete(lease.key)

            async def renewed() -> str | None:
                return await promoted.get(lease.key)

            assert await eventually(renewed) == worker.lease_json()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.generate((1,), request_id="same", max_tokens=1)
            assert error_info(caught.value).reason == "DUPLICATE_REQUEST"
            await stream.send_tokens(request, 3, 4, LENGTH)
            assert (await running).token_ids == [token((1,), index) for index in range(4)]
        holding.cancel()
        await lease.drop()


def test_sentinels_name_hosts_and_need_a_scheme_with_one(model_path: Path) -> None:
    good = ["--set", f"model.path={model_path}", "--set", "redis.sentinels=[s0:26379, '[::1]:26379']"]
    assert load_config(good).redis.sentinels == ("s0:26379", "[::1]:26379")
    with pytest.raises(ConfigError, match=r"redis: .*with sentinels, url must be redis:// or rediss://"):
        load_config([*good, "--set", "redis.url=unix:///r.sock"])
    with pytest.raises(ConfigError, match=r"redis\.sentinels"):
        load_config([*good, "--set", "redis.sentinels=[s0]"])
