"""What was measured becomes numbers of a service model, and the numbers that are shipped are what the file says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.calibration.__main__ import main
from benchmarks.calibration.measured import CalibrationError, Saturated, saturated_in, setup_of, steps_in
from benchmarks.calibration.service import bytes_per_rank, floor_of, from_runs, from_steps, simulated_s
from benchmarks.result import RESULTS
from benchmarks.serve.setups import SETUPS
from control_plane.simulation.named import H200_LLAMA_7B

S1, S2 = SETUPS["S1"], SETUPS["S2"]
CASES = ((1, 0, 256, 0), (32, 32, 256, 0), (256, 0, 256, 0), (256, 0, 512, 0), (256, 256, 512, 0), (256, 64, 512, 768))


def roofline(**changes: object) -> dict[str, object]:
    """Steps that last exactly as a model says."""
    steps = [
        {
            "setup": "S1",
            "rows": rows,
            "adapters": adapters,
            "context": context,
            "chunk": chunk,
            "wall_ms": 1000 * (0.003 + 1e-5 * rows + 1e-7 * rows * context + 2e-6 * 8 * adapters + 2e-5 * chunk),
        }
        for rows, adapters, context, chunk in CASES
    ]
    return {"steps": steps} | changes


def serving(seconds: float, *, num_adapters: int = 0, **changes: object) -> dict[str, object]:
    run = {
        "figures": {"seconds": seconds, "num_requests": 20},
        "options": {"max_running": 512, "max_step_tokens": 1024},
    }
    return {"setup": "S1", "runs": {f"n = {num_adapters}": run, "n = 9, static": run, "decode 1 rows": run}} | changes


def test_steps_that_a_model_makes_give_the_model() -> None:
    found = from_steps(floor_of(S1), steps_in(roofline(), S1))
    assert [found.step_s, found.sequence_s, found.context_s, found.rank_s, found.token_s] == pytest.approx(
        [0.003, 1e-5, 1e-7, 2e-6, 2e-5]
    )
    assert found.bytes_per_token == 524_288


def test_no_number_is_below_nothing() -> None:
    """Measured with less time for more context, as noise may have it."""
    steps = steps_in(roofline(), S1)
    odd = [replace(step, seconds=0.01 - 1e-9 * step.num_context_tokens) for step in steps]
    found = from_steps(floor_of(S1), odd)
    assert found.context_s == 0.0
    assert min(found.step_s, found.sequence_s, found.rank_s, found.token_s) >= 0.0


def test_ranks_are_those_of_the_adapters_in_turn() -> None:
    assert [step.sum_ranks for step in steps_in(roofline(), S2)] == [0, 8 * 120, 0, 0, 64 * 120, 16 * 120]


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(CalibrationError, match="2 steps do not tell 5 numbers apart"):
        from_steps(floor_of(S1), steps_in(roofline(), S1)[-2:])
    with pytest.raises(CalibrationError, match="setups"):
        setup_of([roofline(), serving(1.0, setup="M2")])
    with pytest.raises(CalibrationError, match="base model alone"):
        from_runs(floor_of(S1), S1, saturated_in(serving(1.0, num_adapters=3)))
    with pytest.raises(CalibrationError, match="how many requests"):
        saturated_in({"setup": "S1", "runs": {"n = 0": {"seconds": 1.0}}})


def test_saturating_runs_are_read_from_both_kinds_of_files() -> None:
    found = Saturated("n = 0", 0, 20, 512, 1024, 2.5)
    assert saturated_in(serving(2.5)) == [found]
    old = {
        "bounds": {"max_running": 512, "max_step_tokens": 1024},
        "num_requests": 20,
        "runs": {"n = 0": {"seconds": 2.5}},
    }
    assert saturated_in(old) == [found]
    named = serving(2.5)
    named["runs"] = {"n = 0, 20 requests": named["runs"]["n = 0"]}  # type: ignore[index]
    assert saturated_in(named) == [replace(found, name="n = 0, 20 requests")]


def test_runs_give_the_factors_with_which_they_last_as_long() -> None:
    base, many = (Saturated(f"n = {n}", n, 20, 512, 1024, 0.0) for n in (0, 50))
    floor = floor_of(S1)
    slow = replace(
        floor,
        step_s=2 * floor.step_s,
        sequence_s=2 * floor.sequence_s,
        context_s=2 * floor.context_s,
        token_s=2 * floor.token_s,
        rank_s=3 * floor.rank_s,
    )
    runs = [replace(run, seconds=simulated_s(slow, S1, run)) for run in (base, many)]
    found = from_runs(floor, S1, runs)
    assert found.step_s == pytest.approx(slow.step_s, rel=0.01)
    assert found.rank_s == pytest.approx(slow.rank_s, rel=0.02)


def test_the_floor_is_that_of_the_shape() -> None:
    """S1's bytes as in S-LoRA's setting: 16.8 MB for an adapter of rank 8, half a MiB of KV a token."""
    assert 8 * bytes_per_rank(S1) == 16_777_216
    floor = floor_of(S1)
    assert floor.bytes_per_token == 524_288
    assert floor.step_s == pytest.approx(0.00307, rel=0.01)


def test_the_command_prints_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for name, document in (("roofline", roofline()), ("serve", serving(1.0))):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(document), encoding="utf-8")
    assert main(list(map(str, files))) == 0
    costs, run = capsys.readouterr().out.splitlines()
    assert costs.startswith("--cost step_s=0.003 --cost sequence_s=1e-05 --cost context_s=1e-07 --cost rank_s=2e-06 ")
    assert run.startswith("S1, n = 0: 1.00 s measured, ")
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_the_named_numbers_last_as_long_as_the_runs_that_they_are_from() -> None:
    """And nearly as long as one that they are not from."""
    document = json.loads((RESULTS / "serve-s1-engine-h200.json").read_text(encoding="utf-8"))
    runs = {run.name: run for run in saturated_in(document)}
    for name, tolerance in (("n = 0", 0.01), ("n = 2000", 0.01), ("n = 100", 0.1)):
        assert simulated_s(H200_LLAMA_7B, S1, runs[name]) == pytest.approx(runs[name].seconds, rel=tolerance)
