"""The host cache: adapters fetched once, verified, packed in the host arena, and leased to requests."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from worker.adapters.errors import AdapterTooLarge, HostCacheFull
from worker.adapters.host_index import HostIndex
from worker.adapters.packing import pack_weights
from worker.adapters.weights import AdapterWeights, parse_weights
from worker.errors import WorkerError
from worker.memory.host_arena import HostArena
from worker.memory.layout import AdapterLayout, PageGeometry
from worker.types import AdapterRef, HostedAdapter

_log = logging.getLogger(__name__)


class AdapterSource(Protocol):
    """Where weights come from."""

    async def fetch(self, ref: AdapterRef) -> bytes:
        """The verified canonical weights file of `ref.digest`."""


@dataclass(frozen=True, slots=True)
class HostCacheLimits:
    """Bounds: adapters being loaded at once, hinted ones among them, and the wait for leases of others to end."""

    max_loads: int
    max_prefetches: int
    room_timeout_seconds: float


class HostLease:
    """Keeps an adapter in the host arena until `release`.

    Hold it until the engine is done with the request: until then it may copy the adapter from its host pages.
    """

    def __init__(self, adapter: HostedAdapter, release: Callable[[str], None]) -> None:
        self.adapter = adapter
        self._release: Callable[[str], None] | None = release

    def release(self) -> None:
        """Ends the lease. May be called again."""
        release, self._release = self._release, None
        if release is not None:
            release(self.adapter.digest)


@dataclass(slots=True, eq=False)
class _Flight:
    """A load under way, and how many requests wait for it; a hinted one goes on when none does."""

    ref: AdapterRef
    hinted: bool
    num_waiters: int = 0
    task: asyncio.Task[HostedAdapter] = field(init=False)

    @property
    def succeeded(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None


class HostCache:
    """Adapters in the host arena, least recently used out first, those of live requests never."""

    def __init__(
        self,
        arena: HostArena,
        geometry: PageGeometry,
        base_model: str,
        source: AdapterSource,
        limits: HostCacheLimits,
        on_change: Callable[[str, bool], None],
    ) -> None:
        self._arena = arena
        self._geometry = geometry
        self._base_model = base_model
        self._source = source
        self._limits = limits
        self._index = HostIndex(arena.num_pages, on_change)
        self._flights: dict[str, _Flight] = {}
        self._load_slots = asyncio.Semaphore(limits.max_loads)
        self._next_for_room = asyncio.Lock()  # first come, first served, so that a large adapter's turn comes
        self._room = asyncio.Event()  # set when an allocation that failed may succeed

    @property
    def digests(self) -> tuple[str, ...]:
        """The adapters in host memory."""
        return self._index.digests

    def get_hosted(self, digest: str) -> HostLease | None:
        """Leases the adapter if it is in host memory now."""
        adapter = self._index.lease(digest)
        return None if adapter is None else HostLease(adapter, self._release)

    async def get(self, ref: AdapterRef) -> HostLease:
        """Leases the adapter, loading it if it is not in host memory; requests that want one digest share one load.

        Raises:
            HostCacheFull: the pages that it needs were leased to other requests for too long.
            WorkerError: as the source, `parse_weights` and `pack_weights` raise.
        """
        lease = self.get_hosted(ref.digest)
        if lease is not None:
            return lease
        try:
            return HostLease(await self._wait_for_load(ref), self._release)
        except WorkerError as error:
            # Named for each request: two adapters of different tenants may share a digest.
            metadata = {**error.metadata, "adapter_id": ref.adapter_id, "digest": ref.digest}
            raise type(error)(f"adapter {ref.adapter_id}: {error.message}", **metadata) from error

    def prefetch(self, refs: Iterable[AdapterRef]) -> None:
        """Starts to load adapters that requests will soon need, as many as the limits allow; never fails."""
        for ref in refs:
            if self._index.touch(ref.digest) or ref.digest in self._flights:
                continue
            if sum(flight.hinted for flight in self._flights.values()) >= self._limits.max_prefetches:
                return
            self._start(_Flight(ref, hinted=True))

    async def close(self) -> None:
        """Cancels every load, and with it the requests that wait for one."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check_integrity(self) -> None:
        """Asserts that the books are right."""
        self._index.check_integrity()

    async def _wait_for_load(self, ref: AdapterRef) -> HostedAdapter:
        flight = self._flights.get(ref.digest) or self._start(_Flight(ref, hinted=False))
        flight.num_waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.succeeded:
                self._release(ref.digest)  # the load had leased it to this request
            else:
                flight.num_waiters -= 1
                self._abandon(flight)
            raise

    def _start(self, flight: _Flight) -> _Flight:
        flight.task = asyncio.create_task(self._load(flight), name=f"load {flight.ref.digest}")
        flight.task.add_done_callback(lambda _: self._land(flight))
        self._flights[flight.ref.digest] = flight
        return flight

    def _abandon(self, flight: _Flight) -> None:
        """Ends a load that nobody waits for, unless it was hinted; that one just does not wait for room."""
        if flight.num_waiters == 0 and not flight.hinted:
            self._forget(flight)
            flight.task.cancel()
        self._room.set()

    def _land(self, flight: _Flight) -> None:
        self._forget(flight)
        if not flight.task.cancelled() and (error := flight.task.exception()) is not None:
            _log.warning("adapter %s was not loaded: %s", flight.ref.digest, error)

    def _forget(self, flight: _Flight) -> None:
        """Makes the next request for the digest start anew, unless one did already."""
        if self._flights.get(flight.ref.digest) is flight:
            del self._flights[flight.ref.digest]

    async def _load(self, flight: _Flight) -> HostedAdapter:
        async with self._load_slots:
            data = await self._source.fetch(flight.ref)
            weights = await asyncio.to_thread(parse_weights, data, self._geometry.shape, self._base_model)
            del data
            pages = await self._find_room(flight, weights.layout.num_pages(self._geometry))
            layout = await self._pack(weights, pages)
            # From here to the waiters' own turns nothing may evict it, so they hold their leases already.
            adapter = HostedAdapter(flight.ref.digest, layout, pages)
            self._index.add(adapter, flight.num_waiters)
            self._room.set()
            return adapter

    async def _find_room(self, flight: _Flight, count: int) -> tuple[int, ...]:
        if count > self._index.total_pages:
            raise AdapterTooLarge(
                f"it needs {count} pages of host memory and the host cache has {self._index.total_pages}: set a "
                f"larger host_cache_bytes"
            )
        full = HostCacheFull(f"it needs {count} pages of host memory, and the adapters of running requests hold them")
        try:
            async with asyncio.timeout(self._limits.room_timeout_seconds), self._next_for_room:
                while (pages := self._index.allocate(count)) is None:
                    if flight.num_waiters == 0:
                        raise full
                    self._room.clear()
                    await self._room.wait()
                return pages
        except TimeoutError:
            raise full from None

    async def _pack(self, weights: AdapterWeights, pages: tuple[int, ...]) -> AdapterLayout:
        packing = asyncio.ensure_future(asyncio.to_thread(pack_weights, weights, self._arena, pages))
        try:
            return await asyncio.shield(packing)
        except BaseException:
            # A thread cannot be cancelled: it writes to the pages until it ends.
            packing.add_done_callback(lambda done: self._give_back(pages, done))
            raise

    def _give_back(self, pages: tuple[int, ...], packing: asyncio.Future[AdapterLayout]) -> None:
        if not packing.cancelled():
            packing.exception()  # was raised where it was awaited, or nobody waits any more
        self._index.give_back(pages)
        self._room.set()

    def _release(self, digest: str) -> None:
        self._index.release(digest)
        self._room.set()
