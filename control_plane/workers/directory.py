"""Which workers there are: those that the operator named, and those that hold a lease."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from control_plane.config import WorkersConfig
from control_plane.core.types import Event, LeaseChanged, WorkerStatus
from control_plane.state.store import StateAway
from control_plane.types import Lease

logger = logging.getLogger(__name__)


class Connection(Protocol):
    """The way to one address."""

    @property
    def status(self) -> WorkerStatus | None:
        """The last status of the worker that is attached, or None."""

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        """Keeps the connection up until it breaks while it is not wanted."""


class Reporter(Protocol):
    """Who is told of leases."""

    def report(self, event: Event) -> None:
        """A lease came or went."""


@dataclass(slots=True)
class _KnownLease:
    lease: Lease
    last_seen_s: float
    is_live: bool = True


class WorkerDirectory:
    """Keeps a connection to every worker.

    A worker whose lease is gone gets no new request, and no new connection when its stream breaks; while the stream is
    up, it stays. While Redis is away nothing changes.
    """

    def __init__(
        self,
        config: WorkersConfig,
        base_model: str,
        *,
        read_leases: Callable[[], Awaitable[tuple[Lease, ...]]],
        connect: Callable[[str], Connection],
        fleet: Reporter,
        clock: Callable[[], float],
    ) -> None:
        """`read_leases` raises StateAway; `connect` makes the way to an address, and does not dial yet."""
        self._config = config
        self._base_model = base_model
        self._read_leases = read_leases
        self._connect = connect
        self._fleet = fleet
        self._clock = clock
        self._leases: dict[str, _KnownLease] = {}
        self._foreign: set[str] = set()
        self._left_out: set[str] = set()
        self._wanted: frozenset[str] = frozenset()
        self._connections: dict[str, Connection] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._was_away = False

    @property
    def connections(self) -> Mapping[str, Connection]:
        """The connections by address, whether or not a worker is attached."""
        return self._connections

    async def run(self) -> None:
        """Looks for workers for ever."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._config.lease_poll_s)

    async def close(self) -> None:
        """Ends all connections."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Reads the leases once, and connects to who is new."""
        try:
            leases = await self._read_leases()
        except StateAway:
            self._was_away = True
        else:
            self._take(leases, self._clock())
        leased = {known.lease.address for known in self._leases.values() if known.is_live}
        self._wanted = frozenset(leased.union(self._config.addresses))
        self._left_out &= self._wanted
        for address in sorted(self._wanted - self._connections.keys()):
            self._start(address)

    def _take(self, leases: tuple[Lease, ...], now: float) -> None:
        if self._was_away:
            # Redis may have come back empty; everyone gets the time to write again.
            self._was_away = False
            for known in self._leases.values():
                known.last_seen_s = now
        for lease in leases:
            if lease.base_model != self._base_model:
                self._note_foreign(lease)
                continue
            was_live = self._leases.get(lease.worker_id, _KnownLease(lease, now)).is_live
            self._leases[lease.worker_id] = _KnownLease(lease, now)
            if not was_live:
                self._fleet.report(LeaseChanged(lease.worker_id, is_live=True))
        for worker_id, known in list(self._leases.items()):
            if known.is_live and now - known.last_seen_s > self._config.lease_grace_s:
                known.is_live = False
                logger.warning("the lease of worker %s ran out; it gets no new request", worker_id)
                self._fleet.report(LeaseChanged(worker_id, is_live=False))
            if not known.is_live and known.lease.address not in self._connections:
                # Nothing is left to remember it for: should it come back, it is new.
                del self._leases[worker_id]
                self._fleet.report(LeaseChanged(worker_id, is_live=True))

    def _start(self, address: str) -> None:
        if len(self._connections) >= self._config.max_workers:
            if address not in self._left_out:
                self._left_out.add(address)
                logger.warning("%s is left out: there are %d workers already", address, len(self._connections))
            return
        self._left_out.discard(address)
        connection = self._connect(address)
        self._connections[address] = connection
        task = asyncio.create_task(connection.run(lambda: address in self._wanted))
        self._tasks[address] = task
        task.add_done_callback(lambda done: self._end(address, done))

    def _end(self, address: str, task: asyncio.Task[None]) -> None:
        del self._connections[address]
        del self._tasks[address]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the connection to %s failed and is made anew", address, exc_info=error)

    def _note_foreign(self, lease: Lease) -> None:
        if lease.worker_id not in self._foreign and len(self._foreign) < self._config.max_workers:
            self._foreign.add(lease.worker_id)
            logger.warning(
                "worker %s serves %r, not %r; it is left out", lease.worker_id, lease.base_model, self._base_model
            )
