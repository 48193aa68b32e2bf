"""Which control plane serves a request: no two serve one id at a time."""

import asyncio
from functools import partial
from typing import Final

from redis.asyncio import Redis

from control_plane.core.errors import DuplicateRequest
from control_plane.state.keys import CLAIM, RELEASE, Keys
from control_plane.state.store import StateAway, StateStore

# Keys in one script or pipeline: keeps each a few milliseconds of Redis' time.
BATCH: Final = 500


class Ownership:
    """Claims request ids for one control plane. While Redis is away every claim holds."""

    def __init__(self, store: StateStore, keys: Keys, owner: str, ttl_s: float) -> None:
        self._store = store
        self._keys = keys
        self._owner = owner
        self._ttl_s = ttl_s
        # Claims of each id; a second claim of an id of ours is for the driver to refuse.
        self._held: dict[str, int] = {}
        self._released: dict[str, None] = {}
        self._has_released = asyncio.Event()

    async def claim(self, request_id: str) -> None:
        """Claims an id; `release` must follow. Raises DuplicateRequest, and then nothing is to be released."""
        self._held[request_id] = self._held.get(request_id, 0) + 1
        try:
            other = await self._store.attempt(lambda redis: self._claim(redis, request_id))
        except StateAway:
            return
        except BaseException:
            self.release(request_id)
            raise
        if other:
            self._drop(request_id)
            raise DuplicateRequest(
                f"request_id: a request {request_id!r} is in flight on control plane {other!r}; wait for it or choose"
                " another id",
                metadata={"field": "request_id", "control_plane_id": other},
            )

    def release(self, request_id: str) -> None:
        """Gives up one claim, in the background."""
        if self._drop(request_id):
            self._released[request_id] = None
            self._has_released.set()

    async def release_forever(self) -> None:
        """Tells Redis what was released. What it cannot be told runs out by itself."""
        while True:
            await self._has_released.wait()
            self._has_released.clear()
            await self.flush()

    async def flush(self) -> None:
        """Tells Redis what was released so far."""
        while self._released:
            batch = list(self._released)[:BATCH]
            for request_id in batch:
                del self._released[request_id]
            # One that was claimed again meanwhile is kept.
            keys = [self._keys.request(request_id) for request_id in batch if request_id not in self._held]
            try:
                await self._store.attempt(partial(_release, keys=keys, owner=self._owner))
            except StateAway:
                self._released.clear()

    async def renew_forever(self) -> None:
        """Writes the claims again before they run out."""
        while True:
            await asyncio.sleep(self._ttl_s / 3)
            held = list(self._held)
            for start in range(0, len(held), BATCH):
                batch = held[start : start + BATCH]
                try:
                    await self._store.attempt(partial(self._renew, request_ids=batch))
                except StateAway:
                    break

    def _drop(self, request_id: str) -> bool:
        """One claim fewer; whether it was the last."""
        count = self._held[request_id] - 1
        if count:
            self._held[request_id] = count
        else:
            del self._held[request_id]
        return not count

    async def _claim(self, redis: Redis, request_id: str) -> str:
        key = self._keys.request(request_id)
        return str(await redis.eval(CLAIM, 1, key, self._owner, str(round(self._ttl_s * 1000))))

    async def _renew(self, redis: Redis, request_ids: list[str]) -> None:
        async with redis.pipeline(transaction=False) as pipeline:
            for request_id in request_ids:
                pipeline.eval(CLAIM, 1, self._keys.request(request_id), self._owner, str(round(self._ttl_s * 1000)))
            await pipeline.execute()


async def _release(redis: Redis, keys: list[str], owner: str) -> None:
    if keys:
        await redis.eval(RELEASE, len(keys), *keys, owner)
