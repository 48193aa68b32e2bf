"""One connection to the shared state, which may be away: then calls say so at once, and serving goes on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.config import RedisConfig
from control_plane.state.connection import connect

logger = logging.getLogger(__name__)

T = TypeVar("T")


class StateAway(Exception):
    """The shared state cannot be reached now."""


class StateStore:
    """Redis with short timeouts, and a flag that tells whether it answers.

    `attempt` is for those that wait for an answer: it asks nothing while Redis is away. `probe` is for the background
    loops, which find out when it is back.
    """

    def __init__(self, config: RedisConfig) -> None:
        self._timeout_s = config.timeout_s
        self._connection = connect(config) if config.url else None
        # Sentinels' pools refuse what is beyond their bound instead of letting it wait.
        self._places = asyncio.Semaphore(config.max_connections)
        self._is_reachable = False
        self._was_reported_away = False
        # How often it came back, the first time included: what was published before is gone then.
        self.num_recoveries = 0

    @property
    def is_reachable(self) -> bool:
        """Whether the last call was answered."""
        return self._is_reachable

    @property
    def is_configured(self) -> bool:
        """Whether there is to be any shared state."""
        return self._connection is not None

    async def attempt(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer, within the timeout. Raises StateAway, without asking if Redis is known to be away."""
        if not self._is_reachable:
            raise StateAway
        return await self.probe(operation)

    async def probe(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """The answer, within the timeout. Raises StateAway."""
        if self._connection is None:
            raise StateAway
        try:
            async with asyncio.timeout(self._timeout_s * 2), self._places:
                answer = await operation(self._connection.client)
        except (RedisError, OSError, TimeoutError) as error:
            _end_if_cancelled()
            self._note_away(error)
            raise StateAway from error
        _end_if_cancelled()
        self._note_answer()
        return answer

    async def close(self) -> None:
        """Ends the connections."""
        if self._connection is not None:
            await self._connection.close()

    def _note_away(self, error: BaseException) -> None:
        self._is_reachable = False
        if not self._was_reported_away:
            self._was_reported_away = True
            logger.warning(
                "Redis cannot be reached (%s); serving goes on with the workers known", error or type(error).__name__
            )

    def _note_answer(self) -> None:
        if self._is_reachable:
            return
        self._is_reachable = True
        self.num_recoveries += 1
        if self._was_reported_away:
            self._was_reported_away = False
            logger.info("Redis answers again")


def _end_if_cancelled() -> None:
    """Ends a task that was cancelled inside redis-py, which may answer, or break the connection and raise that."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
