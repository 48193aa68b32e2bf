"""What the start of an engine takes."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnPhase = Callable[[str, float], None]  # is told a phase's name and its seconds; perhaps several times of one phase

_log = logging.getLogger("worker.engine")


def log_phase(phase: str, seconds: float) -> None:
    """Tells whoever runs a worker."""
    _log.info("start: %s took %.1f s", phase, seconds)


@contextmanager
def timed(phase: str, on_phase: OnPhase) -> Iterator[None]:
    """Tells how many seconds the block took."""
    begin = time.perf_counter()
    yield
    on_phase(phase, time.perf_counter() - begin)
