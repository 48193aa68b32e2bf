"""Interrupts while the launcher starts a process, and what becomes of one whose launcher dies."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from multitude.local import die_with_parent
from multitude.local.process import interrupts_deferred

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel stops it")
LAUNCHER = """
import sys
from pathlib import Path
from multitude.local.process import ServiceProcess
service = ServiceProcess(
    "child",
    [sys.executable, "-c", "import signal; print('ready child here', flush=True); signal.pause()"],
    log=Path(sys.argv[1], "log"),
    folder=Path(sys.argv[1]),
)
service.wait_ready(60)
print(service.pid, flush=True)
input()
"""


def test_an_interrupt_comes_at_the_end_of_the_block():
    steps = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- it has to come after the block's last statement
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("forked and known")
        steps.append("went on")
    assert steps == ["forked and known"]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_the_block_raises_goes_first():
    with pytest.raises(ValueError, match="own"), interrupts_deferred():
        raise ValueError("own")


def test_other_threads_leave_signals_alone():
    def enter():
        with interrupts_deferred():
            seen.append(signal.getsignal(signal.SIGINT))

    seen = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


@ON_LINUX
def test_a_service_goes_when_its_launcher_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    launcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    service = os.pidfd_open(int(launcher.stdout.readline()))
    try:
        launcher.kill()
        launcher.communicate()
        ended, _, _ = select.select([service], [], [], 30)
        assert ended, "it still runs"
    finally:
        os.close(service)


@ON_LINUX
def test_a_service_does_not_begin_if_its_launcher_is_dead(tmp_path: Path) -> None:
    script, begun = die_with_parent.__file__, tmp_path / "begun"
    for parent, begins in ((os.getpid(), True), (1 << 30, False)):
        begun.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-I", "-S", script, str(parent), "touch", str(begun)], check=True, timeout=60)
        assert begun.exists() is begins
