"""How long `multitude serve` takes from its start to a first token."""

import signal
import socket
import subprocess
import sys
import time

from benchmarks.demo_workload import BASE_MODEL, DEMO_MODEL
from benchmarks.result import Figure, Spread
from multitude import Client, MultitudeError

ROUNDS = 3


def measure() -> list[Figure]:
    """Starts, asks until a token comes, stops; several times."""
    seconds = Spread(tuple(_start_to_first_token() for _ in range(ROUNDS)))
    return [
        Figure(
            "start of `multitude serve` to first token",
            round(seconds.median, 2),
            "s",
            10.0,
            at_least=False,
            details={"seconds": seconds.summary()},
        )
    ]


def _start_to_first_token() -> float:
    address, store_address = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    words = ["--address", address, "--store-address", store_address, "serve", str(DEMO_MODEL / "base")]
    command = [sys.executable, "-m", "multitude", *words, "--model-name", BASE_MODEL]
    begin = time.perf_counter()
    serving = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with Client(address) as client:
            while True:
                try:
                    for chunk in client.stream("abc=>", max_tokens=4):
                        if chunk.token_ids:
                            return time.perf_counter() - begin
                except MultitudeError:
                    if time.perf_counter() - begin > 60 or serving.poll() is not None:
                        raise
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(30)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
