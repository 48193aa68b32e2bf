from typing import Any

import pytest

from control_plane.core.demand import ReplicationSettings
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.scorers.adapter_residency import AdapterResidency
from control_plane.core.placement.scorers.consolidate import Consolidate
from control_plane.core.placement.scorers.first_token import FirstToken
from control_plane.core.placement.scorers.free_pages import FreePages
from control_plane.core.placement.scorers.home import Home
from control_plane.core.placement.scorers.load import Load
from control_plane.core.placement.scorers.load_spread import LoadSpread
from control_plane.core.placement.scorers.pending_prefill import PendingPrefill
from control_plane.core.placement.scorers.prefix_affinity import PrefixAffinity
from control_plane.core.placement.scorers.queue_depth import QueueDepth
from control_plane.core.placement.scorers.rank_fit import RankFit
from control_plane.core.types import ResidencyTier
from tests.unit.control_core.makers import adapter, busy, request, score, worker

BASE = PlacementRequest(request())
WITH_A = PlacementRequest(request(name="a"))


@pytest.mark.parametrize(
    ("residency", "expected"),
    [({"a": ResidencyTier.POOL}, 1.0), ({"a": ResidencyTier.HOST}, 0.5), ({"b": ResidencyTier.POOL}, 0.0), ({}, 0.0)],
)
def test_adapter_residency(residency: dict[str, ResidencyTier], expected: float) -> None:
    assert score(AdapterResidency(), WITH_A, worker(residency=residency)) == expected


def test_adapter_residency_of_what_is_under_way() -> None:
    assert score(AdapterResidency(), WITH_A, busy(worker(), "a")) == 1.0
    hinted = worker()
    assert hinted.hint(adapter("a"), 4)
    assert score(AdapterResidency(host=0.25), WITH_A, hinted) == 0.25
    assert score(AdapterResidency(), BASE, worker()) == 1.0


@pytest.mark.parametrize(("num_busy", "expected"), [(0, 1.0), (1, 0.75), (4, 0.0)])
def test_load(num_busy: int, expected: float) -> None:
    assert score(Load(), BASE, busy(worker(window=4), *[None] * num_busy)) == expected


@pytest.mark.parametrize(
    ("total_pages", "kv_pages", "adapter_pages", "expected"),
    [(100, 0, 100, 1.0), (100, 25, 75, 0.75), (100, 100, 0, 0.0), (0, 0, 0, 0.0)],
)
def test_free_pages(total_pages: int, kv_pages: int, adapter_pages: int, expected: float) -> None:
    made = worker(total_pages=total_pages, kv_pages=kv_pages, adapter_pages=adapter_pages)
    assert score(FreePages(), BASE, made) == expected


@pytest.mark.parametrize(("pending", "expected"), [(0, 1.0), (100, 0.5), (300, 0.25)])
def test_pending_prefill(pending: int, expected: float) -> None:
    assert score(PendingPrefill(tokens=100), BASE, worker(pending_prefill_tokens=pending)) == expected


def test_pending_prefill_counts_what_was_just_sent() -> None:
    assert score(PendingPrefill(tokens=4), BASE, busy(worker(), None)) == 0.5


@pytest.mark.parametrize(
    ("rank", "ranks_in_flight", "expected"), [(8, 8, 1.0), (32, 8, 0.5), (128, 8, 0.0), (2, 512, 0.0)]
)
def test_rank_fit(rank: int, ranks_in_flight: int, expected: float) -> None:
    asked = PlacementRequest(request(name="a", rank=rank))
    assert score(RankFit(octaves=4), asked, busy(worker(), "b", "c", rank=ranks_in_flight)) == expected


def test_rank_fit_where_there_is_nothing_to_fit() -> None:
    assert score(RankFit(), BASE, busy(worker(), "b", rank=128)) == 1.0
    assert score(RankFit(), WITH_A, busy(worker(), None)) == 1.0


@pytest.mark.parametrize(("num_busy", "expected"), [(0, 0.0), (2, 0.5), (4, 1.0), (5, 0.0)])
def test_consolidate(num_busy: int, expected: float) -> None:
    made = busy(worker(window=5), *[None] * num_busy)
    assert score(Consolidate(target=0.8), BASE, made) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("num_running", "num_waiting", "num_busy", "expected"),
    [(0, 0, 0, 1.0), (5, 5, 0, 0.5), (10, 20, 3, 0.25), (1, 0, 10, 0.5)],
)
def test_queue_depth(num_running: int, num_waiting: int, num_busy: int, expected: float) -> None:
    made = busy(worker(window=16, num_running=num_running, num_waiting=num_waiting), *[None] * num_busy)
    assert score(QueueDepth(requests=10), BASE, made) == expected


@pytest.mark.parametrize(
    ("num_busy", "expected"), [([0, 1, 2], [1.0, 0.5, 0.0]), ([3, 3], [1.0, 1.0]), ([1], [1.0]), ([10, 11], [1.0, 0.0])]
)
def test_load_spread(num_busy: list[int], expected: list[float]) -> None:
    fleet = Fleet()
    made = [busy(worker(f"w{index}", window=20, fleet=fleet), *[None] * num) for index, num in enumerate(num_busy)]
    assert [score(LoadSpread(), BASE, each) for each in made] == expected


def test_load_spread_compares_those_that_are_left() -> None:
    fleet = Fleet()
    made = [busy(worker(f"w{index}", window=4, fleet=fleet), *[None] * index) for index in range(4)]
    among = fleet.columns.is_attached.copy()
    among[made[0].row] = False
    values = LoadSpread().score(BASE, fleet.columns, among)
    assert [values[each.row] for each in made] == [1.0, 1.0, 0.5, 0.0]
    assert LoadSpread().score(BASE, fleet.columns, among & False).tolist() == [1.0] * fleet.columns.num_rows


def test_home_is_one_worker_and_more_for_a_hot_adapter() -> None:
    fleet = Fleet()
    made = [worker(f"w{index}", fleet=fleet) for index in range(8)]
    fleet.columns.demand.settings = ReplicationSettings(worker_requests_per_s=1.0, max_workers=3)
    assert sum(score(Home(), WITH_A, each) for each in made) == 1.0
    for index in range(200):
        fleet.columns.demand.note(request(name="a"), index / 50)
    hot = PlacementRequest(request(name="a"), now=4.0)
    assert sum(score(Home(), hot, each) for each in made) == 3.0
    assert all(score(Home(), hot, each) >= score(Home(), WITH_A, each) for each in made)
    assert [score(Home(), BASE, each) for each in made] == [1.0] * 8


def test_home_passes_over_workers_far_above_the_mean_load() -> None:
    fleet = Fleet()
    made = [worker(f"w{index}", window=40, fleet=fleet) for index in range(4)]
    plugin = Home(bound=1.25, slack=2)
    (home,) = [each for each in made if score(plugin, WITH_A, each)]
    busy(home, None, None)
    assert score(plugin, WITH_A, home) == 1.0
    busy(home, *["b"] * 3)
    assert score(plugin, WITH_A, home) == 0.0
    (next_home,) = [each for each in made if score(plugin, WITH_A, each)]
    for each in made:
        if each not in (home, next_home):
            busy(each, *[None] * 8)
    assert score(plugin, WITH_A, home) == 1.0


def test_prefix_affinity() -> None:
    made = worker()
    asked = PlacementRequest(request(num_prompt_tokens=80))
    assert score(PrefixAffinity(), asked, made) == 0.0
    made._columns.prefixes.note(request(num_prompt_tokens=40), made.row)
    assert score(PrefixAffinity(), asked, made) == 32 / 80


def test_first_token_is_sooner_where_less_waits_and_the_adapter_is_near() -> None:
    fleet = Fleet()

    def reported(worker_id: str, **fields: Any) -> Worker:
        # A thousand prompt tokens a second, measured while some were pending.
        for now, count in ((0.0, 0), (1.0, 1000)):
            made = worker(worker_id, fleet=fleet, now=now, num_prefill_tokens=count, **fields)
        return made

    idle = reported("idle", pending_prefill_tokens=1)
    loaded = reported("loaded", pending_prefill_tokens=2996)
    near = reported("near", pending_prefill_tokens=1, residency={"a": ResidencyTier.POOL})
    unmeasured = worker("unmeasured", fleet=fleet)
    asked = PlacementRequest(request(name="a", num_prompt_tokens=1000, size_bytes=100))
    assert score(FirstToken(seconds=1.001), asked, idle) == pytest.approx(0.5)
    assert score(FirstToken(seconds=1.0), asked, loaded) == pytest.approx(1 / 4.996)
    assert score(FirstToken(seconds=1.0), asked, unmeasured) == pytest.approx(0.5)
    # Adapters of a hundred bytes that were nowhere took a second more.
    fleet.columns.predictor.served(asked.request, 1.0, ResidencyTier.NONE, 2.0, 1.0)
    assert score(FirstToken(seconds=1.0), asked, idle) == pytest.approx(1 / 3.001)
    assert score(FirstToken(seconds=1.0), asked, near) == pytest.approx(1 / 2.001)
    assert score(FirstToken(seconds=1.001), PlacementRequest(request(num_prompt_tokens=1000)), idle) == pytest.approx(
        0.5
    )


def test_first_token_before_anything_was_measured() -> None:
    assert score(FirstToken(), WITH_A, worker(pending_prefill_tokens=9)) == 1.0
