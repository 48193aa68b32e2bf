"""Figures are what streams were, and runs of several calls come together in one file and one picture."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.serve import __main__ as command
from benchmarks.serve import merge, options
from benchmarks.serve.cold import ColdTest
from benchmarks.serve.goals import figures
from benchmarks.serve.outcome import Moment, Run, Stream
from benchmarks.serve.record import Record
from benchmarks.serve.workload import Item


def test_figures_are_those_of_the_streams() -> None:
    streams = [Stream(0.0, num_tokens=3, first=3.0, last=4.0), Stream(2.0, num_tokens=1, first=10.0, last=10.0)]
    summary = Run(10.0, streams, num_prompt_tokens=16).summary()
    assert summary["requests_per_s"] == 0.2
    assert summary["output_tokens_per_s"] == 0.4
    assert summary["total_tokens_per_s"] == 2.0
    assert summary["latency_mean_s"] == 6.0
    assert summary["first_token_mean_s"] == 5.5
    assert summary["attainment"] == 0.5, "8 s is later than 6 s"
    assert summary["satisfaction"] == pytest.approx(0.375), "1 - (3 / 6) ** 2, and nothing"
    assert summary["tpot_p50_ms"] == 500.0


def test_refused_requests_are_late_and_in_no_mean() -> None:
    summary = Run(2.0, [Stream(0.0, 2, 1.0, 2.0), Stream(0.0)], 4, extra={"num_preemptions": 7}).summary()
    assert (summary["requests_per_s"], summary["attainment"], summary["latency_mean_s"]) == (0.5, 0.5, 2.0)
    assert summary["num_preemptions"] == 7
    nothing = Run(2.0, [Stream(0.0)], 4).summary()
    assert (nothing["attainment"], nothing["first_token_p99_s"], nothing["tpot_p99_ms"]) == (0.0, 0.0, 0.0)


def test_the_pool_over_time_is_thinned() -> None:
    moments = [Moment(float(index), index / 1000, 0.5, index, 0) for index in range(1000)]
    timeline = Run(1000.0, [], 0, moments).timeline()
    assert len(timeline["seconds"]) == 200
    assert (timeline["seconds"][1], timeline["kv"][1], timeline["num_running"][1]) == (5.0, 0.005, 5)


def test_a_call_leaves_a_file_that_the_next_adds_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for arguments in ("--adapters 0 3 --requests 4", "--adapters 3 --rate 400 --duration 0.05"):
        words = ["serve", "--setup", "tiny", "--device", "cpu", "--out", str(tmp_path), *arguments.split()]
        monkeypatch.setattr(sys, "argv", words)
        assert command.main() == 0
    written = json.loads((tmp_path / "serve-tiny-engine-cpu.json").read_text())
    assert written["setup"] == "tiny"
    names = ["start", "n = 0, 4 requests", "n = 3, 4 requests", "n = 3, 400/s for 0.05 s, cv 1, alpha 1"]
    assert list(written["runs"]) == names
    run = written["runs"]["n = 3, 4 requests"]
    assert run["figures"]["requests_per_s"] > 0
    assert 0 < max(run["timeline"]["kv"]) < 1
    assert 0 < max(run["timeline"]["adapters"]) < 1
    assert run["machine"]["commit"]
    assert written["figures"] == [], "the small model has no goal"
    assert "tiny engine n = 3, 4 requests" in capsys.readouterr().out


def test_variants_and_peers_serve_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--setup tiny --device cpu --adapters 3 --requests 3 --variant unified static bmm --peer peft"
    monkeypatch.setattr(sys, "argv", ["serve", *words.split(), "--peft-seconds", "0.001", "--out", str(tmp_path)])
    assert command.main() == 0
    runs = Record.read(tmp_path / "serve-tiny-engine-cpu.json").runs
    name = "n = 3, 3 requests"
    engines = ("", ", static split", ", padded bmm")
    assert list(runs) == [
        *(run for engine in engines for run in (f"start{engine}", f"{name}{engine}")),
        f"{name}, Hugging Face PEFT",
    ]
    assert runs[f"{name}, Hugging Face PEFT"]["figures"]["num_left_out"] > 0


def test_cold_adapters_are_a_run_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--setup tiny --device cpu --requests 0 --cold --out"
    monkeypatch.setattr(sys, "argv", ["serve", *words.split(), str(tmp_path)])
    monkeypatch.setattr(options, "ColdTest", lambda: ColdTest(others=2, arrivals=1, spacing=8))
    assert command.main() == 0
    runs = Record.read(tmp_path / "serve-tiny-engine-cpu.json").runs
    assert list(runs) == ["start", "cold adapter"]
    assert runs["cold adapter"]["figures"]["first_token_cold_ms"] > 0


@pytest.mark.parametrize(("words", "num_hosted"), [("", 3), ("--host-all", 9)])
def test_a_start_says_what_took_how_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, num_hosted: int
) -> None:
    asked = [Item(adapter, (1, 2), 2) for adapter in (0, 4, 8)]
    monkeypatch.setattr(options, "saturate", lambda *_: asked)
    line = f"serve --setup tiny --device cpu --adapters 0 9 --requests 3 {words} --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", line.split())
    assert command.main() == 0
    runs = Record.read(tmp_path / "serve-tiny-engine-cpu.json").runs
    suffix = ", all in host memory" if words else ""
    assert list(runs) == ["start", f"n = 0, 3 requests{suffix}", f"n = 9, 3 requests{suffix}"]
    figures = runs["start"]["figures"]
    assert figures["num_hosted"] == num_hosted
    assert figures["weights_s"] > 0
    assert figures["host_memory_s"] > 0


def test_a_bounded_host_cache_does_not_hold_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "--host-all", "--host-gib", "1"])
    with pytest.raises(SystemExit):
        command.main()
    assert "leave one of them out" in capsys.readouterr().err


def test_a_peer_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "--setup", "tiny", "--device", "cpu", "--variant", "--peer", "vllm"])
    assert command.main() == 2
    assert "pip install vllm" in capsys.readouterr().err


def _record(*runs: tuple[str, float, str]) -> Record:
    record = Record("S1", "engine", "h200")
    for name, rate, time in runs:
        record.add(name, {"requests_per_s": rate}, machine={"gpu": "a GPU", "commit": time}, options={})
        record.runs[name]["time"] = time
    return record


def test_later_runs_take_the_place_of_those_of_their_name(tmp_path: Path) -> None:
    _record(("n = 0", 40.0, "2026-02"), ("n = 100", 1.0, "2026-02")).write(tmp_path)
    path = _record(("n = 0", 41.0, "2026-01"), ("n = 100", 2.0, "2026-03")).write(tmp_path)
    kept = Record.read(path)
    assert {name: run["figures"]["requests_per_s"] for name, run in kept.runs.items()} == {
        "n = 0": 40.0,
        "n = 100": 2.0,
    }
    assert json.loads(path.read_text())["machine"]["commit"] == "2026-03"


def test_files_are_merged_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    paths = [
        _record(("n = 0", 40.0, "2026-02")).write(tmp_path / "one"),
        _record(("n = 2000", 37.0, "2026-02")).write(tmp_path / "other"),
    ]
    monkeypatch.setattr(sys, "argv", ["merge", *map(str, paths), "--into", str(tmp_path)])
    assert merge.main() == 0
    assert "0.925 ratio" in capsys.readouterr().out
    assert list(Record.read(tmp_path / "serve-s1-engine-h200.json").runs) == ["n = 0", "n = 2000"]
    assert (tmp_path / "serve-s1-engine-h200.png").stat().st_size > 10_000


def test_a_missed_goal_is_said() -> None:
    found = figures("S1", "engine", {"n = 0": {"requests_per_s": 40.0}, "n = 2000": {"requests_per_s": 30.0}})
    assert [(figure.value, figure.goal, figure.is_met) for figure in found] == [
        (40.0, 36.0, True),
        (30.0, 32.0, False),
        (0.75, 0.9, False),
    ]
    cold = figures("S1", "engine", {"cold adapter": {"cold_minus_resident_ms": 11.0}})
    assert [figure.is_met for figure in cold] == [False]
