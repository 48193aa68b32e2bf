"""The serving benchmark's stack level: every request goes through store, control plane, worker and client processes."""

import sys
from pathlib import Path

import pytest

from benchmarks.serve import __main__ as command
from benchmarks.serve.record import Record


def test_the_stack_is_measured_beside_the_engine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--setup tiny --device cpu --level stack --adapters 0 3 --requests 5 --clients 2 --scratch"
    monkeypatch.setattr(sys, "argv", ["serve", *words.split(), str(tmp_path), "--out", str(tmp_path / "out")])
    assert command.main() == 0
    alone, whole = (
        Record.read(tmp_path / "out" / f"serve-tiny-{level}-cpu.json").runs for level in ("engine", "stack")
    )
    assert list(whole) == ["n = 0, 5 requests", "n = 3, 5 requests"]
    assert list(alone) == ["start", *whole]
    for name, run in whole.items():
        figures, expected = run["figures"], alone[name]["figures"]
        assert figures["num_requests"] == 5
        tokens = figures["output_tokens_per_s"] * figures["seconds"]
        assert tokens == pytest.approx(expected["output_tokens_per_s"] * expected["seconds"], rel=0.01), (
            "all were served"
        )
        assert figures["by_engine"] == pytest.approx(figures["requests_per_s"] / expected["requests_per_s"], abs=1e-3)
        assert figures["cpu_s_worker-0_engine"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "the adapters are gone"
