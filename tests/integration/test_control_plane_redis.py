"""The shared state's client against a real Redis: cancelled at any moment, and the scripts' atomicity."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from control_plane.config import RedisConfig
from control_plane.core.errors import DuplicateRequest
from control_plane.state.keys import Keys
from control_plane.state.leases import read_leases
from control_plane.state.ownership import Ownership
from control_plane.state.store import StateAway, StateStore
from tests.unit.control_shell.redis_server import RedisServer, running_redis

KEYS = Keys("f")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[StateStore]:
    store = StateStore(RedisConfig(url=server.url))
    await store.probe(lambda redis: redis.flushall())
    yield store
    await store.close()


def ownership(store: StateStore, owner: str) -> Ownership:
    return Ownership(store, KEYS, owner, ttl_s=10)


@pytest.mark.parametrize("num_turns", range(40))
async def test_a_cancelled_caller_ends_wherever_it_is(server: RedisServer, num_turns: int) -> None:
    store = StateStore(RedisConfig(url=server.url))

    async def poll() -> None:
        while True:
            await store.probe(lambda redis: read_leases(redis, KEYS))

    task = asyncio.create_task(poll())
    for _ in range(num_turns):
        await asyncio.sleep(0)
    task.cancel()
    _, pending = await asyncio.wait([task], timeout=5)
    assert not pending
    assert task.cancelled()
    await store.close()


async def test_of_many_claims_one_holds(store: StateStore) -> None:
    owners = [ownership(store, f"owner-{index}") for index in range(20)]
    outcomes = await asyncio.gather(*(each.claim("r") for each in owners), return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, DuplicateRequest) for outcome in outcomes) == 19


async def test_only_the_last_release_gives_a_claim_up(store: StateStore) -> None:
    one, other = ownership(store, "one"), ownership(store, "other")
    await one.claim("r")
    await one.claim("r")
    one.release("r")
    await one.flush()
    with pytest.raises(DuplicateRequest):
        await other.claim("r")
    one.release("r")
    await one.claim("r")
    await one.flush()
    with pytest.raises(DuplicateRequest):
        await other.claim("r")
    one.release("r")
    await one.flush()
    await other.claim("r")


async def test_nobody_releases_what_another_owns(store: StateStore) -> None:
    one, other = ownership(store, "one"), ownership(store, "other")
    await one.claim("r")
    await store.probe(lambda redis: redis.set(KEYS.request("r"), "other"))
    one.release("r")
    await one.flush()
    assert await store.probe(lambda redis: redis.get(KEYS.request("r"))) == "other"
    await other.claim("r")


async def test_without_redis_every_claim_holds_and_nobody_waits() -> None:
    store = StateStore(RedisConfig(url="unix:///nowhere.sock"))
    with pytest.raises(StateAway):
        await store.probe(lambda redis: redis.ping())
    owner = ownership(store, "one")
    await owner.claim("r")
    owner.release("r")
    await owner.flush()
    assert not store.is_reachable
    await store.close()
