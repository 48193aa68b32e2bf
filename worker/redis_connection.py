"""The way to Redis: one server by its URL, or whichever server of a group Sentinels name as the primary."""

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel

from worker.config import RedisSection
from worker.errors import ConfigInvalidError


@dataclass(frozen=True, slots=True)
class RedisConnection:
    """A client, and those of the Sentinels that it asks."""

    client: Redis
    sentinels: tuple[Redis, ...] = ()

    async def close(self) -> None:
        """Ends all connections."""
        for each in (self.client, *self.sentinels):
            await each.aclose()


def connect(config: RedisSection) -> RedisConnection:
    """What is asked for, without a connection yet. Raises ConfigInvalidError if the URL is none."""
    timeouts: dict[str, Any] = {"socket_timeout": config.timeout_s, "socket_connect_timeout": config.timeout_s}
    try:
        if not config.sentinels:
            return RedisConnection(Redis.from_url(config.url, **timeouts))
        sentinel = Sentinel([_address(each) for each in config.sentinels], sentinel_kwargs=timeouts)  # type: ignore[no-untyped-call]
        client = sentinel.master_for(config.sentinel_group, **timeouts, **_login(config.url))
    except ValueError as error:
        raise ConfigInvalidError(f"redis.url: {error}", field="redis.url") from None
    return RedisConnection(client, tuple(sentinel.sentinels))


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _login(url: str) -> dict[str, Any]:
    """What a URL says besides the host and port."""
    found = dict(parse_url(url))
    is_encrypted = found.pop("connection_class", None) is SSLConnection
    return {name: value for name, value in found.items() if name not in {"host", "port"}} | {"ssl": is_encrypted}
