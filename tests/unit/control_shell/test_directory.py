import asyncio
from collections.abc import Callable

import pytest

from control_plane.config import WorkersConfig
from control_plane.core.types import Event, LeaseChanged, WorkerStatus
from control_plane.state.store import StateAway
from control_plane.types import Lease
from control_plane.workers.directory import WorkerDirectory


class FakeConnection:
    """Ends when `broken` is set and the address is not wanted."""

    status: WorkerStatus | None = None

    def __init__(self) -> None:
        self.broken = asyncio.Event()

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        while True:
            await self.broken.wait()
            self.broken.clear()
            if not is_wanted():
                return


class Rig:
    def __init__(self, *addresses: str, max_workers: int = 10) -> None:
        self.now = 0.0
        self.leases: dict[str, Lease] | None = {}
        self.events: list[Event] = []
        self.made: dict[str, FakeConnection] = {}
        self.directory = WorkerDirectory(
            WorkersConfig(addresses=addresses, lease_grace_s=5.0, max_workers=max_workers),
            "tiny",
            read_leases=self.read_leases,
            connect=self.connect,
            fleet=self,
            clock=lambda: self.now,
        )

    def report(self, event: Event) -> None:
        self.events.append(event)

    async def read_leases(self) -> tuple[Lease, ...]:
        if self.leases is None:
            raise StateAway
        return tuple(self.leases.values())

    def connect(self, address: str) -> FakeConnection:
        self.made[address] = FakeConnection()
        return self.made[address]

    def put(self, worker_id: str, address: str, base_model: str = "tiny") -> None:
        assert self.leases is not None
        self.leases[worker_id] = Lease(address, worker_id, base_model)

    async def refresh(self, now: float) -> set[str]:
        self.now = now
        await self.directory.refresh()
        await asyncio.sleep(0)
        return set(self.directory.connections)

    async def break_connection(self, address: str) -> None:
        self.made[address].broken.set()
        for _ in range(3):
            await asyncio.sleep(0)


async def test_named_and_leased_workers_are_connected_once() -> None:
    rig = Rig("a:1")
    rig.put("w", "b:1")
    rig.put("also a", "a:1")
    rig.put("foreign", "c:1", base_model="other")
    assert await rig.refresh(0) == {"a:1", "b:1"}
    assert await rig.refresh(1) == {"a:1", "b:1"}
    assert len(rig.made) == 2
    assert rig.events == []
    await rig.directory.close()
    assert not rig.directory.connections


async def test_a_lease_that_is_gone_closes_nothing_that_lives() -> None:
    rig = Rig()
    rig.put("w", "b:1")
    await rig.refresh(0)
    rig.leases = {}
    assert await rig.refresh(5) == {"b:1"}
    assert rig.events == [], "within the grace time"
    assert await rig.refresh(5.1) == {"b:1"}
    assert rig.events == [LeaseChanged("w", is_live=False)]
    await rig.break_connection("b:1")
    assert await rig.refresh(6) == set()
    rig.put("w", "b:1")
    assert await rig.refresh(7) == {"b:1"}
    assert rig.events[-1] == LeaseChanged("w", is_live=True)


async def test_a_lease_that_comes_back_is_told() -> None:
    rig = Rig()
    rig.put("w", "b:1")
    await rig.refresh(0)
    leases, rig.leases = rig.leases, {}
    await rig.refresh(6)
    rig.leases = leases
    await rig.refresh(7)
    assert rig.events == [LeaseChanged("w", is_live=False), LeaseChanged("w", is_live=True)]


async def test_while_redis_is_away_nothing_changes() -> None:
    rig = Rig()
    rig.put("w", "b:1")
    await rig.refresh(0)
    rig.leases = None
    assert await rig.refresh(100) == {"b:1"}
    await rig.break_connection("b:1")
    assert await rig.refresh(101) == {"b:1"}, "it is dialled again"
    rig.leases = {}
    assert await rig.refresh(102) == {"b:1"}, "Redis came back empty"
    assert rig.events == []
    await rig.refresh(107.1)
    assert rig.events == [LeaseChanged("w", is_live=False)]


async def test_a_worker_that_moved_is_followed() -> None:
    rig = Rig()
    rig.put("w", "b:1")
    await rig.refresh(0)
    rig.put("w", "b:2")
    assert await rig.refresh(1) == {"b:1", "b:2"}
    await rig.break_connection("b:1")
    assert await rig.refresh(2) == {"b:2"}
    assert rig.events == []


async def test_workers_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig("a:1", "b:1", "c:1", max_workers=2)
    assert await rig.refresh(0) == {"a:1", "b:1"}
    assert "c:1 is left out" in caplog.text
