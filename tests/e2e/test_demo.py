"""`make demo`: right answers and exit code 0; Ctrl-C at any moment leaves no process behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-u", "-m", "examples.demo"]


def test_demo_answers_right():
    done = subprocess.run(
        [*COMMAND, "--workers", "1", "--requests", "60"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 of 60 right" in done.stdout


def test_demo_fails_when_an_answer_is_wrong(monkeypatch, tmp_path):
    """The exit code depends on the answers: with wrong expectations the demo fails."""
    from examples import demo

    wrong = demo.Answer(demo.Question("a", "x", "y"), "z", 1, 1.0, 1.0)
    broken = demo.Answer(demo.Question("a", "x", "y"), "y", 1, 1.0, 1.0, "UNAVAILABLE: gone")
    right = demo.Answer(demo.Question("a", "x", "y"), "y", 1, 1.0, 1.0)
    assert (wrong.is_right, broken.is_right, right.is_right) == (False, False, True)
    console = demo.Console(quiet=True)
    assert demo._print_totals([right, wrong], 1.0, console) == 1
    assert demo._print_totals([right, broken], 1.0, console) == 1
    assert demo._print_totals([right], 1.0, console) == 0


@pytest.mark.parametrize("moment", ["starting", "control_plane on", "ready", "asking"])
def test_interrupt_leaves_nothing(moment):
    folder = tempfile.mkdtemp(prefix="d-")  # a socket's path must be short; pytest's own folders are deep
    demo = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": folder})
    try:
        for line in demo.stdout:
            if moment in line:
                break
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        rest = demo.stdout.read()
        assert demo.wait(60) == 130, rest
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert not list(Path(folder).glob("multitude-*"))
    finally:
        demo.kill()
        shutil.rmtree(folder)


def test_killed_parent_leaves_no_process():
    demo = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in demo.stdout:
        if "ready" in line:
            break
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.kill()
    assert children
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
