"""A worker's lease against a real Redis: it ends when it is told to, wherever it is."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.unit.control_shell.redis_server import RedisServer, running_redis
from worker.config import RedisSection
from worker.lease import Lease


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.mark.parametrize("num_turns", range(40))
async def test_holding_ends_wherever_it_is_cancelled(server: RedisServer, num_turns: int) -> None:
    lease = Lease(RedisSection(url=server.url), "w", "{}")
    task = asyncio.create_task(lease.hold())
    for _ in range(num_turns):
        await asyncio.sleep(0)
    task.cancel()
    _, pending = await asyncio.wait([task], timeout=1)
    assert not pending
    assert task.cancelled()
    await lease.drop()
