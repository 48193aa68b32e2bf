"""Cold adapters are those that were never in the pool, and everybody's tokens are watched."""

import pytest
import torch

from benchmarks.serve.cold import ColdTest, measure_cold
from benchmarks.serve.engines import engine_of
from benchmarks.serve.options import Bounds
from benchmarks.serve.setups import SETUPS

TINY = SETUPS["tiny"]


def test_those_that_come_have_rank_16_where_there_is_one() -> None:
    others, coming = ColdTest(others=5, arrivals=2).adapters(SETUPS["M2"])
    assert len(set(others)) == 5
    assert len(set(coming)) == 5
    assert set(others).isdisjoint(coming)
    assert {SETUPS["M2"].layout(number).max_rank for number in coming} == {16}
    assert len({SETUPS["M2"].layout(number).max_rank for number in others}) == 4
    assert len(ColdTest(others=2, arrivals=1).adapters(SETUPS["S1"])[1]) == 3


def test_cold_adapters_are_loaded_in_their_round_and_no_other() -> None:
    test = ColdTest(others=3, arrivals=2, spacing=8)
    others, coming = test.adapters(TINY)
    with engine_of(TINY, torch.device("cpu"), others + coming, Bounds(max_running=8, max_step_tokens=64)) as server:
        entered: list[str] = []
        step = server.engine.step

        def watched():
            result = step()
            entered.extend(change.digest for change in result.residency if change.resident)
            return result

        server.engine.step = watched
        summary = measure_cold(server.engine, server.adapters, TINY, test)
    assert entered == [f"dummy-{number}" for number in (*others, coming[-1], *coming[:-1])], "each once"
    assert summary["first_token_cold_ms"] > 0
    assert summary["others_tpot_by_resident"] > 0
    difference = summary["first_token_cold_ms"] - summary["first_token_resident_ms"]
    assert summary["cold_minus_resident_ms"] == pytest.approx(difference, abs=0.002), "all three are rounded"
    idle = summary["idle_first_token_cold_ms"] - summary["idle_first_token_resident_ms"]
    assert summary["idle_cold_minus_resident_ms"] == pytest.approx(idle, abs=0.002)
    assert summary["idle_first_token_resident_ms"] > 0
    assert summary["others_pause_cold_ms"] >= summary["others_tpot_cold_ms"]
