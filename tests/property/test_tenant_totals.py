"""Lots of charges reach Redis once each, whatever is lost on the way; and Redis may lose everything."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from redis.asyncio import Redis

from control_plane.core.types import Event, TenantAmount, TenantsCharged, TenantTotalsRead
from control_plane.state.keys import Keys
from control_plane.state.store import StateAway
from control_plane.state.tenants import TenantTotals
from tests.unit.control_shell.redis_server import RedisServer, running_redis

KEYS = Keys("f")
TENANTS = ("a", "b", "c")
T = TypeVar("T")


class FaultyStore:
    """A store that loses a call on its way, or its answer, when it is told to."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.fault = ""

    async def probe(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        if self.fault == "call":
            raise StateAway
        answer = await operation(self.redis)
        if self.fault == "answer":
            raise StateAway
        return answer


class Replica:
    """A control plane's part: it charges, numbers its lots, and learns what is in."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.store = FaultyStore(world.redis)
        self.totals = TenantTotals(self.store, KEYS, self, interval_s=1, ttl_s=1000)  # type: ignore[arg-type]
        self.number = 0
        self.is_out = False
        self.read: TenantTotalsRead | None = None

    def report(self, event: Event) -> None:
        assert isinstance(event, TenantTotalsRead)
        self.read = event
        self.is_out = self.is_out and event.number != self.number

    def share(self, fault: str) -> None:
        self.store.fault = fault
        try:
            self.world.run(self.totals.share())
        except StateAway:
            assert fault


class World:
    """A Redis, and one event loop for everything that is asked of it."""

    def __init__(self, server: RedisServer) -> None:
        self._runner = asyncio.Runner()
        self.redis = Redis.from_url(server.url, decode_responses=True)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def flush(self) -> None:
        self.run(self.redis.flushall())

    def close(self) -> None:
        self.run(self.redis.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running_redis() as server:
        world = World(server)
        yield world
        world.close()


def test_every_lot_is_added_once(world: World) -> None:
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            world.flush()
            self.replicas = [Replica(world), Replica(world)]
            self.counters: Counter[str] = Counter()
            self.used: Counter[str] = Counter()

        @rule(
            index=st.integers(0, 1),
            counters=st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 1000), min_size=1, max_size=3),
            used=st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 1000), max_size=2),
        )
        def charge(self, index: int, counters: dict[str, int], used: dict[str, int]) -> None:
            replica = self.replicas[index]
            if replica.is_out:
                return
            replica.number += 1
            replica.is_out = True
            replica.totals.charge(TenantsCharged(replica.number, amounts(counters), amounts(used)))
            self.counters.update(counters)
            self.used.update(used)

        @rule(index=st.integers(0, 1), fault=st.sampled_from(["", "call", "answer"]))
        def share(self, index: int, fault: str) -> None:
            self.replicas[index].share(fault)

        @rule()
        def settle(self) -> None:
            for replica in self.replicas * 2:
                replica.share("")
            for replica in self.replicas:
                assert replica.read is not None
                assert not replica.is_out
                assert {each.tenant: each.amount for each in replica.read.counters} == self.counters
                assert {each.tenant: each.amount for each in replica.read.used_tokens} == self.used

        @invariant()
        def a_lot_stays_until_it_is_in(self) -> None:
            for replica in self.replicas:
                assert (replica.totals._lot is not None) == replica.is_out

    Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
    Machine.TestCase().runTest()


def test_a_redis_that_lost_everything_takes_the_lot_again(world: World) -> None:
    world.flush()
    replica = Replica(world)
    replica.totals.charge(TenantsCharged(1, amounts({"a": 5})))
    replica.number, replica.is_out = 1, True
    replica.share("answer")
    world.flush()
    replica.share("")
    assert replica.read == TenantTotalsRead(1, amounts({"a": 5}))


def test_tenants_that_get_nothing_for_long_are_forgotten(world: World) -> None:
    world.flush()
    replica = Replica(world)
    replica.totals.charge(TenantsCharged(1, amounts({"old": 5, "new": 7}), amounts({"old": 1})))
    replica.share("")

    world.run(world.redis.zadd(KEYS.tenants, {"old": 1}))
    replica.share("")
    replica.share("")
    assert replica.read == TenantTotalsRead(1, amounts({"new": 7}))


def amounts(found: dict[str, int]) -> tuple[TenantAmount, ...]:
    return tuple(TenantAmount(tenant, amount) for tenant, amount in sorted(found.items()))
