"""Workloads are those of the file and of the paper's generator."""

import json
import statistics

import pytest

from benchmarks.serve.options import parse
from benchmarks.serve.setups import SETUPS
from benchmarks.serve.workload import SATURATE, Arrivals, decode, open_loop, saturate, touched


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


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_open_loop_arrivals_have_their_rate_and_variation(cv: float) -> None:
    items = open_loop(Arrivals(20.0, cv, duration_s=500.0), 0, 100)
    times = [item.arrival_s for item in items]
    between = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert times == sorted(times)
    assert times[-1] < 500.0
    assert statistics.fmean(between) == pytest.approx(1 / 20, rel=0.1)
    assert statistics.stdev(between) / statistics.fmean(between) == pytest.approx(cv, rel=0.1)
    assert {len(item.prompt) for item in items} <= set(range(8, 512))
    assert all(item.adapter is None for item in items)


def test_smaller_alpha_is_more_skewed() -> None:
    uniform, skewed = (open_loop(Arrivals(50.0, 1.0, alpha), 100, 100) for alpha in (1.0, 0.2))
    low = [statistics.fmean(item.adapter < 10 for item in items) for items in (uniform, skewed)]
    assert low[0] == pytest.approx(0.1, abs=0.02)
    assert low[1] == pytest.approx(0.1**0.2, abs=0.03), "the distribution of the power distribution is p ** alpha"
    assert all(0 <= item.adapter < 100 for item in uniform + skewed)


def test_arrivals_are_checked() -> None:
    with pytest.raises(ValueError, match="above 0"):
        Arrivals(rate=5.0, cv=0.0)


def test_runs_are_named_by_what_is_not_as_usual() -> None:
    def names(arguments: str) -> list[str]:
        return list(parse(["--setup", "tiny", *arguments.split()]).workloads())

    assert names("--adapters 0 3") == ["n = 0", "n = 3"]
    assert names("--adapters 3 --requests 10 --pool-gib 2") == ["n = 3, 10 requests, pool 2 GiB"]
    assert names("--adapters 0 9 --requests 0 --decode 1 4") == [
        "decode 1 row", "decode 4 rows", "decode 1 row, 1 adapter", "decode 4 rows, 4 adapters"
    ]  # fmt: skip
    assert names("--adapters 2 --decode 1") == ["n = 2", "decode 1 row, 1 adapter"]
    assert names("--adapters 2 --rate 3 --cv 2 --duration 5") == ["n = 2, 3/s for 5 s, cv 2, alpha 1"]


@pytest.mark.parametrize(("name", "megabytes"), [("S1", 16.8), ("S1-rank4", 8.4), ("M2", 42.0)])
def test_an_adapters_bytes_are_those_of_its_shape(name: str, megabytes: float) -> None:
    layout = SETUPS[name].layout(0)
    assert layout.stream_elements * layout.shape.num_layers * 2 / 1e6 == pytest.approx(megabytes, rel=0.01)
