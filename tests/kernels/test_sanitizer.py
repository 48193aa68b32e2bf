"""Every kernel of `kernels/` is launched, and on a GPU compute-sanitizer sees none touch what is not its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernels.buffers import DEVICE

# Tensors lie in few large allocations of torch's cache: without it, and with room between them, each has its borders.
CACHELESS = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
MEMCHECK = (
    "compute-sanitizer",
    *("--tool", "memcheck"),
    *("--padding", "4096"),
    *("--target-processes", "application-only"),  # but not compilers
    *("--report-api-errors", "no"),  # torch and Triton ask for what a driver may not have
    *("--print-limit", "10"),
    *("--error-exitcode", "86"),
)
LIMIT_S = 840  # kernels are compiled, and then rewritten by the sanitizer

Completed = subprocess.CompletedProcess[str]


def run(*arguments: str, tool: tuple[str, ...] = ()) -> Completed:
    return subprocess.run(
        [*tool, sys.executable, "-m", "tests.kernels.every_kernel", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **CACHELESS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )


def seen(result: Completed) -> str:
    """The first lines of the sanitizer, and the last of the program."""
    lines = result.stdout.splitlines()
    reported = [line for line in lines if line.startswith("=========")]
    others = [line for line in lines if not line.startswith("=========")]
    return "\n".join([f"exit status {result.returncode}", *reported[:60], *others[-40:]])


@pytest.fixture
def memcheck() -> Callable[..., Completed]:
    if DEVICE == "cpu":
        pytest.skip("no CUDA device here")
    if shutil.which(MEMCHECK[0]) is None:
        pytest.skip("no compute-sanitizer here")

    def checked(*arguments: str) -> Completed:
        result = run(*arguments, tool=MEMCHECK)
        if "Device not supported" in result.stdout:
            pytest.skip("compute-sanitizer does not take this device")
        return result

    return checked


def test_every_kernel_is_launched() -> None:
    result = run()
    assert result.returncode == 0, seen(result)


@pytest.mark.gpu
@pytest.mark.timeout(LIMIT_S + 60)
def test_no_kernel_touches_what_is_not_its_own(memcheck: Callable[..., Completed]) -> None:
    result = memcheck()
    assert result.returncode == 0, seen(result)
    assert "ERROR SUMMARY: 0 errors" in result.stdout, seen(result)


@pytest.mark.gpu
@pytest.mark.timeout(LIMIT_S + 60)
def test_a_row_behind_the_last_is_seen(memcheck: Callable[..., Completed]) -> None:
    result = memcheck("--astray")
    assert result.returncode != 0, seen(result)
    assert "Invalid __global__ read" in result.stdout, seen(result)
