import pytest

from control_plane.core import demand as demand_module
from control_plane.core.demand import Demand, ReplicationSettings
from tests.unit.control_core.makers import request

SETTINGS = ReplicationSettings(worker_requests_per_s=2.0, max_workers=4, half_life_s=10.0)


def asked(name: str, rate: float, *, seconds: float = 100.0, demand: Demand | None = None) -> Demand:
    demand = demand or Demand(SETTINGS)
    for index in range(int(rate * seconds)):
        demand.note(request(name=name), index / rate)
    return demand


@pytest.mark.parametrize("rate", [0.5, 3.0, 20.0])
def test_a_rate_is_measured_and_forgotten_by_halves(rate: float) -> None:
    demand = asked("a", rate)
    assert demand.rate("sha256:a", 100.0) == pytest.approx(rate, rel=0.07)
    assert demand.rate("sha256:a", 110.0) == pytest.approx(rate / 2, rel=0.07)
    assert demand.rate("sha256:b", 100.0) == 0.0


@pytest.mark.parametrize(("rate", "count"), [(0.1, 1), (1.5, 1), (3.0, 2), (5.0, 3), (50.0, 4)])
def test_hotter_adapters_belong_on_more_workers_within_bounds(rate: float, count: int) -> None:
    assert asked("a", rate).num_workers("sha256:a", 100.0) == count


def test_what_cools_down_belongs_on_one_worker_again() -> None:
    demand = asked("a", 5.0)
    assert demand.num_workers("sha256:a", 140.0) == 1
    assert demand.num_workers("never asked for", 0.0) == 1


def test_hot_adapters_are_listed_hottest_first() -> None:
    demand = asked("cold", 1.0)
    asked("hot", 5.0, demand=demand)
    asked("hotter", 9.0, demand=demand)
    assert [each.adapter.adapter_id for each in demand.hot(100.0) if each.adapter] == ["hotter", "hot"]
    assert demand.hot(200.0) == []


def test_warm_is_what_was_asked_for_of_late() -> None:
    demand = Demand(SETTINGS)
    for name, at in (("old", 0.0), ("new", 40.0), ("newer", 45.0)):
        demand.note(request(name=name), at)
    warm = demand.warm([f"sha256:{name}" for name in ("old", "new", "newer", "unknown")], 50.0)
    assert [each.adapter.adapter_id for each in warm if each.adapter] == ["newer", "new"]
    assert {each.prompt_token_ids for each in warm} == {()}


def test_the_adapters_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand_module, "_MAX_ADAPTERS", 3)
    demand = asked("a", 9.0)
    demand.note(request(), 100.0)
    for name in "bcd":
        demand.note(request(name=name), 100.0)
    assert demand.rate("sha256:a", 100.0) == 0.0
    assert demand.rate("sha256:b", 100.0) > 0.0
    assert demand.hot(100.0) == []
