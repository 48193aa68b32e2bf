"""The workers that operators take out of service: marked in Redis for every control plane, which follows the marks."""

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis

from control_plane.core.types import DrainChanged, Event
from control_plane.errors import DrainsFull, StateUnavailable
from control_plane.state.keys import Keys
from control_plane.state.store import StateAway, StateStore

MAX_DRAINING = 10_000

# A member that is no worker: as long as it is there, Redis has lost no mark.
_WRITTEN = "*"


class DrainKeeper:
    """Holds the marks in force. Without a Redis they are this control plane's own; while it is away, they stay."""

    def __init__(self, store: StateStore, keys: Keys, report: Callable[[Event], None]) -> None:
        """`report` is told of every mark that is set or taken away."""
        self._store = store
        self._keys = keys
        self._report = report
        self._marked: frozenset[str] = frozenset()
        self._num_set = 0

    async def set(self, worker_id: str, *, is_draining: bool) -> None:
        """Takes a worker out of service or puts it back. Raises DrainsFull, StateUnavailable, nothing being changed."""
        if is_draining and len(self._marked | {worker_id}) > MAX_DRAINING:
            raise DrainsFull(f"worker_id: {MAX_DRAINING} workers are marked: put some that are gone back in service")
        if self._store.is_configured:
            try:
                await self._store.attempt(lambda redis: self._write(redis, worker_id, is_draining=is_draining))
            except StateAway:
                raise StateUnavailable(
                    "Redis cannot be reached; nothing was changed: try again when it is back", retry_after_s=1.0
                ) from None
        self._num_set += 1
        self._take(self._marked | {worker_id} if is_draining else self._marked - {worker_id})

    async def follow(self, interval_s: float) -> None:
        """Looks for marks for ever."""
        while True:
            await self.catch_up()
            await asyncio.sleep(interval_s)

    async def catch_up(self) -> None:
        """Takes up the marks that there are, or puts back those in force if Redis has lost them."""
        num_set = self._num_set
        try:
            found = frozenset(map(str, await self._store.probe(lambda redis: redis.smembers(self._keys.draining))))
            if not found and self._marked:
                await self._store.probe(lambda redis: redis.sadd(self._keys.draining, _WRITTEN, *self._marked))
                return
        except StateAway:
            return
        # What was read before a mark was set here says nothing of it.
        if num_set == self._num_set:
            self._take(found - {_WRITTEN})

    async def _write(self, redis: Redis, worker_id: str, *, is_draining: bool) -> None:
        lost = () if await redis.exists(self._keys.draining) else self._marked
        async with redis.pipeline(transaction=True) as pipe:
            pipe.sadd(self._keys.draining, _WRITTEN, *lost)
            (pipe.sadd if is_draining else pipe.srem)(self._keys.draining, worker_id)
            await pipe.execute()

    def _take(self, marked: frozenset[str]) -> None:
        before, self._marked = self._marked, marked
        for worker_id in sorted(before ^ marked):
            self._report(DrainChanged(worker_id, is_draining=worker_id in marked))
