"""docker compose, for real where there is a Docker daemon."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compose.sh"


def _reason_to_skip() -> str:
    if os.environ.get("MULTITUDE_TEST_COMPOSE") != "1":
        return "set MULTITUDE_TEST_COMPOSE=1 to build the images and run them (minutes)"
    if shutil.which("docker") is None:
        return "there is no docker command"
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        return "docker has no compose plugin"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker daemon answers"
    return ""


@pytest.mark.docker
@pytest.mark.skipif(bool(_reason_to_skip()), reason=_reason_to_skip() or "-")
def test_compose():
    done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
