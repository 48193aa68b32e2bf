"""The way to Redis: one server by its URL, or whichever server of a group Sentinels name as the primary."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel

from control_plane.config import RedisConfig


@dataclass(frozen=True, slots=True)
class RedisConnection:
    """A client, and those of the Sentinels that it asks."""

    client: Redis
    sentinels: tuple[Redis, ...] = ()

    async def close(self) -> None:
        """Ends all connections."""
        for each in (self.client, *self.sentinels):
            await each.aclose()
            await each.connection_pool.disconnect()


def connect(config: RedisConfig) -> RedisConnection:
    """What is asked for, without a connection yet; with Sentinels, a new primary is found when the old one is lost."""
    timeouts: dict[str, Any] = {"socket_timeout": config.timeout_s, "socket_connect_timeout": config.timeout_s}
    if not config.sentinels:
        pool = BlockingConnectionPool.from_url(
            config.url,
            max_connections=config.max_connections,
            timeout=config.timeout_s,
            decode_responses=True,
            **timeouts,
        )
        return RedisConnection(Redis(connection_pool=pool))
    sentinel = Sentinel([_address(each) for each in config.sentinels], sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]
    client = sentinel.master_for(config.sentinel_group, decode_responses=True, **timeouts, **_login(config.url))
    return RedisConnection(client, tuple(sentinel.sentinels))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _login(url: str) -> dict[str, Any]:
    """What a URL says besides the host and port."""
    found = dict(parse_url(url))
    is_encrypted = found.pop("connection_class", None) is SSLConnection
    return {name: value for name, value in found.items() if name not in {"host", "port"}} | {"ssl": is_encrypted}
