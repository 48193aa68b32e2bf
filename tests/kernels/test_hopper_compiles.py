"""The Hopper kernels, which no interpreter runs, compile for their GPU on any machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MULTIPROCESSOR_BYTES = 228 << 10  # of shared memory; a program takes 1 KiB more than it asks for


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int | bool]]:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    result = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_for_hopper"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


LINEARS = [f"linear, {rows}" for rows in ("1 row", "32 rows", "32 rows, narrow", "64 rows")]


@pytest.mark.parametrize(("kernel", "programs"), [("decode", 2), ("prefill", 1), *((name, 1) for name in LINEARS)])
def test_compiles_to_hopper_instructions(
    kernel: str, programs: int, compiled: dict[str, dict[str, int | bool]]
) -> None:
    assert compiled[kernel]["has_wgmma"]
    assert compiled[kernel]["has_tma"]
    assert compiled[kernel]["is_chained"] == (kernel != "prefill")
    assert programs * (compiled[kernel]["shared_bytes"] + 1024) <= MULTIPROCESSOR_BYTES
