"""Workloads are those of the file, figures are what streams were, and a run on a CPU ends with a file."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.serve import __main__ as command
from benchmarks.serve.run import Run, Stream
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.workload import SATURATE, decode, saturate, touched


def test_adapters_follow_the_files_uniform_numbers() -> None:
    lines = [json.loads(line) for line in SATURATE.read_text().splitlines()]
    items = saturate(SATURATE, 2000, 32000, 1000)
    assert [item.adapter for item in items] == [int(line["u"] * 2000) for line in lines]
    assert [len(item.prompt) for item in items] == [line["prompt_len"] for line in lines]
    assert len(touched(items)) == 786
    assert all(item.adapter is None for item in saturate(SATURATE, 0, 32000, 1000))
    more = saturate(SATURATE, 10, 32000, 1500)
    assert len(more) == 1500
    assert more[1200].num_output == items[200].num_output
    assert saturate(SATURATE, 10, 32000, 5) == saturate(SATURATE, 10, 32000, 5)


def test_decode_batches_take_adapters_in_turn() -> None:
    assert [item.adapter for item in decode(5, 2, 100)] == [0, 1, 0, 1, 0]
    assert {item.adapter for item in decode(5, 0, 100)} == {None}


@pytest.mark.parametrize(("name", "megabytes"), [("S1", 16.8), ("S1-rank4", 8.4), ("M2", 42.0)])
def test_an_adapters_bytes_are_those_of_its_shape(name: str, megabytes: float) -> None:
    layout = SETUPS[name].layout(0)
    assert layout.stream_elements * layout.shape.num_layers * 2 / 1e6 == pytest.approx(megabytes, rel=0.01)


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


def test_a_run_leaves_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    arguments = "--setup tiny --adapters 0 3 --requests 4 --device cpu --out"
    monkeypatch.setattr(sys, "argv", ["serve", *arguments.split(), str(tmp_path)])
    assert command.main() == 0
    written = json.loads((tmp_path / "serve-tiny-cpu.json").read_text())
    assert written["setup"] == "tiny"
    assert list(written["runs"]) == ["n = 0", "n = 3"]
    assert written["runs"]["n = 3"]["requests_per_s"] > 0
    assert written["figures"] == [], "the small model has no goal"
    assert "tiny n = 3" in capsys.readouterr().out


def test_a_missed_goal_is_said() -> None:
    figures = command._figures("S1", {"n = 0": {"requests_per_s": 40.0}, "n = 2000": {"requests_per_s": 30.0}})
    assert [(figure.value, figure.goal, figure.is_met) for figure in figures] == [
        (40.0, 36.0, True),
        (30.0, 32.0, False),
        (0.75, 0.9, False),
    ]
