"""Kernels compile for a Hopper GPU on any machine: those that no interpreter runs, and those that LoRA adds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MULTIPROCESSOR_BYTES = 228 << 10  # of shared memory; a program takes 1 KiB more than it asks for


Compiled = dict[str, dict[str, int | bool]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compile_all("tests.kernels.compile_for_hopper", tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def compiled_lora(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return compile_all("tests.kernels.compile_lora", tmp_path_factory.mktemp("triton"))


def compile_all(module: str, cache: Path) -> Compiled:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    result = subprocess.run(
        [sys.executable, "-m", module],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


LINEARS = [f"linear, {rows}" for rows in ("1 row", "32 rows", "32 rows, narrow", "64 rows")]
ADAPTED_LINEARS = [f"linear and shrink, {rows}" for rows in ("1 row", "32 rows, narrow", "64 rows", "64 rows of q k v")]
ADAPTED_LINEARS += ["linear and shrink, apart", "linear and shrink, apart, q k v"]
ADAPTED_LINEARS += ["linear and shrink, 1 row, long rows", "linear and shrink, apart, long rows"]
WHOLE = ("linear and expand", "linear and SiLU")  # which are not launched early
LINEARS += [*ADAPTED_LINEARS, *WHOLE]


@pytest.mark.parametrize(("kernel", "programs"), [("decode", 2), ("prefill", 1), *((name, 1) for name in LINEARS)])
def test_compiles_to_hopper_instructions(kernel: str, programs: int, compiled: Compiled) -> None:
    assert compiled[kernel]["has_wgmma"]
    assert compiled[kernel]["has_tma"]
    assert compiled[kernel]["lets_next_begin"]
    assert compiled[kernel]["waits"] == (kernel not in WHOLE)
    assert programs * (compiled[kernel]["shared_bytes"] + 1024) <= MULTIPROCESSOR_BYTES


@pytest.mark.parametrize("kernel", ["norm", "norm, wide"])
def test_a_norm_of_a_cluster_compiles(kernel: str, compiled: Compiled) -> None:
    assert compiled[kernel]["has_cluster"]
    assert compiled[kernel]["waits"]
    assert compiled[kernel]["lets_next_begin"]
    assert compiled[kernel]["wide_loads"]
    assert compiled[kernel]["narrow_loads"] == 0


@pytest.mark.parametrize("kernel", [*ADAPTED_LINEARS, "linear and expand"])
def test_what_is_beside_a_linear_layer_reads_two_elements_at_a_time(kernel: str, compiled: Compiled) -> None:
    """As many as a tensor core takes next to each other."""
    assert compiled[kernel]["narrow_loads"] == 0
    assert compiled[kernel]["narrow_copies"] == 0


SPLIT = ("shrink", "shrink of long rows", "expand", "expand of long rows", "expand of rank 64")
LARGE = [
    ("shrink of a large batch", 2),
    ("expand of a large batch", 3),
    ("expand of rank 64 of a large batch", 4),
]
ADAPTED = ("norm", "silu_mul", "silu_mul of many rows", "rotation")


@pytest.mark.parametrize(
    ("kernel", "programs"), [*((name, 2) for name in SPLIT), *LARGE, *((name, 1) for name in ADAPTED)]
)
def test_lora_reads_in_wide_loads(kernel: str, programs: int, compiled_lora: Compiled) -> None:
    """Element by element, which is what a lost hint on an address comes to, they take many times as long."""
    assert compiled_lora[kernel]["wide_loads"]
    assert compiled_lora[kernel]["narrow_loads"] == 0
    if kernel in ("silu_mul", "silu_mul of many rows"):  # a thread reads all ranks of a row of the bridge, in float32
        assert compiled_lora[kernel]["wide_loads"] > compiled_lora[kernel]["word_loads"]
    assert compiled_lora[kernel]["is_chained"]
    assert programs * (compiled_lora[kernel]["shared_bytes"] + 1024) <= MULTIPROCESSOR_BYTES


@pytest.mark.parametrize("kernel", ["shrink", "expand"])
def test_rows_of_up_to_two_pages_are_read_ahead_like_those_of_one(kernel: str, compiled_lora: Compiled) -> None:
    assert compiled_lora[f"{kernel} of long rows"]["shared_bytes"] == compiled_lora[kernel]["shared_bytes"]
