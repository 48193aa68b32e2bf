"""The worker's lease in Redis: how control planes find it, and notice when it is gone."""

import asyncio
import contextlib
import logging

from redis.exceptions import RedisError

from worker.config import RedisSection
from worker.redis_connection import connect

_log = logging.getLogger("worker.lease")

_RENEWALS_PER_TTL = 3


class Lease:
    """One key with a time to live, renewed as long as `hold` runs. Raises ConfigInvalidError if the URL is none.

    Redis being away is no reason to stop: it is logged once, and the lease is written again when Redis is back.
    """

    def __init__(self, config: RedisSection, worker_id: str, value: str) -> None:
        self.key = f"{{multitude:{config.fleet}}}:worker:{worker_id}"
        self._value = value
        self._ttl_s = config.lease_ttl_s
        self._redis = connect(config)
        self._is_held = True  # so that the first failure is told

    async def hold(self) -> None:
        """Writes the lease, and renews it until cancelled."""
        while True:
            await self._renew()
            _end_if_cancelled()
            await asyncio.sleep(self._ttl_s / _RENEWALS_PER_TTL)

    async def drop(self) -> None:
        """Takes the lease back, if Redis can be reached, and ends the connection."""
        with contextlib.suppress(RedisError, OSError):
            await self._redis.client.delete(self.key)
        await self._redis.close()

    async def _renew(self) -> None:
        try:
            await self._redis.client.set(self.key, self._value, px=int(self._ttl_s * 1000))
        except (RedisError, OSError) as error:
            if self._is_held:
                _log.warning("no lease while Redis cannot be reached: %s", error)
            self._is_held = False
        else:
            if not self._is_held:
                _log.info("the lease is held again")
            self._is_held = True


def _end_if_cancelled() -> None:
    """Ends a task that was cancelled inside redis-py, which may answer, or break the connection and raise that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
