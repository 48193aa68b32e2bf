"""One service as a child process: started, awaited, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from multitude.errors import LocalStackError

# Without site-packages it begins in some 20 ms.
_DIE_WITH_PARENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("die_with_parent.py")))
_LOG_LINES_SHOWN = 12


class ServiceProcess:
    """A child process that says `ready <service> <address>` on its standard output when it serves.

    It is in a session of its own, so that Ctrl-C on the terminal reaches the parent alone, which stops it in order;
    where the system is Linux it is also stopped by the kernel when its parent dies. Start it from a thread that lives
    as long as it should. Its standard error goes to `log`.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, folder: Path, awaits_ready: bool = True
    ) -> None:
        self.name = name
        self.log = log
        self.address = ""
        self._ready = threading.Event()  # it said so, or its output ended
        is_bound = sys.platform == "linux"
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [*_DIE_WITH_PARENT, str(os.getpid()), *command] if is_bound else command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if awaits_ready else errors,
                stderr=errors,
                start_new_session=True,
            )
        if awaits_ready:
            threading.Thread(target=self._read_output, name=f"{name} output", daemon=True).start()
        else:
            self._ready.set()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def wait_ready(self, timeout_s: float) -> str:
        """Waits until it serves and returns its address.

        Errors: LocalStackError with reason SERVICE_NOT_STARTED and the end of its log if it ended or is late.
        """
        has_spoken = self._ready.wait(timeout_s)
        if self.address:
            return self.address
        state = "ended" if has_spoken else f"was not ready after {timeout_s:.0f} s"
        raise LocalStackError(
            f"{self.name} {state}; the end of its log ({self.log}):\n{self.log_tail()}", reason="SERVICE_NOT_STARTED"
        )

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_LOG_LINES_SHOWN:])

    def terminate(self) -> None:
        """Asks it to stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process.poll() is None:
            self._process.kill()

    def wait(self, timeout_s: float) -> None:
        """Waits for its end, and ends it if that takes longer than `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            words = line.decode("utf-8", "replace").split()
            if len(words) == 3 and words[0] == "ready":
                self.address = words[2]
                self._ready.set()
        self._ready.set()


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end of the block.

    Raised in the middle of a fork they would be lost, and right after it the child would be nobody's.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for signal_number in arrived:
        signal.raise_signal(signal_number)
