import random
from dataclasses import fields
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.fleet import Fleet
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.policy import PlacementPolicy, SelectedProfile, Selector
from control_plane.core.placement.profile import Profile, WeightedScorer
from control_plane.core.placement.registry import FILTERS, PICKERS, SCORERS
from control_plane.core.settings import LabelMatch, bounds_of
from control_plane.core.types import Request
from tests.unit.control_core import naive_placement
from tests.unit.control_core.fleets import REQUESTS, fleets
from tests.unit.control_core.makers import busy, request, worker


def plugins(kind: type) -> st.SearchStrategy[Any]:
    """A plugin with any settings that a policy file may give it."""
    drawn = {}
    for field in fields(kind):
        bounds = bounds_of(field.metadata)
        if bounds is not None:
            drawn[field.name] = st.floats(bounds.low, min(bounds.high, 1e4))
        elif isinstance(field.default, Enum):
            drawn[field.name] = st.sampled_from(type(field.default))
        else:
            drawn[field.name] = st.just(LabelMatch((("zone", ("a", "b")), ("gpu", ("x",))))) | st.just(LabelMatch())
    return st.builds(kind, **drawn)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    filters = draw(st.lists(st.sampled_from(sorted(FILTERS)), unique=True))
    scorers = draw(st.lists(st.sampled_from(sorted(SCORERS)), unique=True, min_size=1))
    weights = [draw(st.sampled_from([0.5, 1.0, 3.0])) for _ in scorers]
    return Profile(
        filters=tuple(draw(plugins(FILTERS[name])) for name in filters),
        scorers=tuple(
            WeightedScorer(draw(plugins(SCORERS[name])), weight) for name, weight in zip(scorers, weights, strict=True)
        ),
        picker=PICKERS[draw(st.sampled_from(sorted(PICKERS)))](),
    )


@pytest.mark.parametrize("registry", [FILTERS, SCORERS, PICKERS])
def test_plugins_are_registered_by_name_with_bounded_settings(registry: dict[str, type]) -> None:
    for name, plugin in registry.items():
        assert plugin.name == name
        assert plugin.__doc__
        for field in fields(plugin):
            bounds = bounds_of(field.metadata)
            assert field.default in bounds if bounds is not None else isinstance(field.default, Enum | LabelMatch)


def test_each_filter_and_scorer_has_its_judge() -> None:
    assert set(naive_placement.FILTERS) == set(FILTERS)
    assert set(naive_placement.SCORERS) == set(SCORERS)


@given(fleets(), REQUESTS, st.data())
def test_each_plugin_says_of_all_workers_what_its_judge_says_of_each(
    fleet: Fleet, asked: PlacementRequest, data: st.DataObject
) -> None:
    for name in FILTERS:
        plugin = data.draw(plugins(FILTERS[name]))
        verdicts = plugin.admits(asked, fleet.columns)
        for each in fleet:
            assert verdicts[each.row] == naive_placement.FILTERS[name](plugin, asked, each, fleet), name
    left = [each for each in fleet if len(each.in_flight) < each.window]
    for name in SCORERS:
        plugin = data.draw(plugins(SCORERS[name]))
        values = plugin.score(asked, fleet.columns, fleet.columns.has_room)
        for each in fleet:
            assert 0.0 <= values[each.row] <= 1.0, name
            assert values[each.row] == pytest.approx(naive_placement.SCORERS[name](plugin, asked, each, left)), name


@given(fleets(), REQUESTS, profiles())
def test_a_choice_is_the_best_that_the_judge_finds(fleet: Fleet, asked: PlacementRequest, profile: Profile) -> None:
    profile = Profile(profile.filters, profile.scorers)
    row = profile.choose(asked, fleet.columns, fleet.columns.has_room, random.Random(0))
    left = naive_placement.left_by(profile, asked, fleet)
    if row is None:
        assert not left
        return
    totals = {each: naive_placement.total(profile, asked, each, left) for each in left}
    chosen = fleet.at(row)
    # Sums in another order differ by a rounding.
    assert totals[chosen] == pytest.approx(max(totals.values()))
    ties = [each.worker_id for each in left if totals[each] == totals[chosen]]
    assert chosen.worker_id == min(ties)


@given(fleets(), REQUESTS, profiles(), st.integers())
def test_explain_decides_as_choose_does(fleet: Fleet, asked: PlacementRequest, profile: Profile, seed: int) -> None:
    columns = fleet.columns
    explanation = profile.explain(asked, columns, random.Random(seed))
    row = profile.choose(asked, columns, columns.has_room, random.Random(seed))
    assert explanation.worker_id == (None if row is None else columns.worker_id(row))
    assert explanation.emptied_by == (None if row is not None else naive_placement.emptied_by(profile, asked, fleet))
    assert [each.worker_id for each in explanation.verdicts] == sorted(each.worker_id for each in fleet)
    refused = {each.worker_id for each in explanation.verdicts if each.refused_by}
    assert (explanation.worker_id is None) == (len(refused) == len(fleet))
    assert explanation.worker_id not in refused
    for verdict in explanation.verdicts:
        assert 0.0 <= verdict.total <= 1.0
        assert [each.scorer for each in verdict.scores] == [each.scorer.name for each in profile.scorers]


@given(fleets(), REQUESTS, profiles())
def test_able_are_those_that_all_lasting_filters_admit(fleet: Fleet, asked: PlacementRequest, profile: Profile) -> None:
    lasting = [each for each in profile.asked if each.is_lasting]
    able = profile.able(asked, fleet.columns, fleet.columns.is_attached)
    for made in fleet:
        assert able[made.row] == all(naive_placement.FILTERS[each.name](each, asked, made, fleet) for each in lasting)


@given(st.permutations([f"w{index}" for index in range(6)]), st.sampled_from(sorted(PICKERS)), st.integers())
def test_the_order_in_which_workers_came_changes_nothing(ids: list[str], picker: str, seed: int) -> None:
    def chosen(order: list[str]) -> str:
        fleet = Fleet()
        for worker_id in order:
            busy(worker(worker_id, fleet=fleet), *[None] * (int(worker_id[1]) // 3))
        profile = Profile(scorers=(WeightedScorer(SCORERS["load"](), 1.0),), picker=PICKERS[picker]())
        columns = fleet.columns
        row = profile.choose(PlacementRequest(request()), columns, columns.has_room, random.Random(seed))
        assert row is not None
        return columns.worker_id(row)

    assert chosen(ids) == chosen(sorted(ids))


def test_explain_says_everything() -> None:
    profile = Profile(scorers=(WeightedScorer(SCORERS["load"](), 1.0), WeightedScorer(SCORERS["free_pages"](), 3.0)))
    fleet = Fleet()
    busy(worker("b", kv_pages=50, fleet=fleet), None, None)
    worker("a", total_pages=0, fleet=fleet)
    busy(worker("c", window=1, fleet=fleet), None)
    explanation = profile.explain(PlacementRequest(request()), fleet.columns, random.Random(0))
    first, second, third = explanation.verdicts
    assert (first.worker_id, first.refused_by) == ("a", ("sequence_fits",))
    assert [(each.scorer, each.weight, each.value) for each in second.scores] == [
        ("load", 1, 0.5),
        ("free_pages", 3, 0.5),
    ]
    assert second.total == 0.5
    assert third.refused_by == ("has_room",)
    assert (explanation.worker_id, explanation.picker, explanation.profile) == ("b", "max_score", "default")
    assert explanation.emptied_by is None


def test_a_worker_out_of_service_is_refused_for_that_alone() -> None:
    profile = Profile(scorers=(WeightedScorer(SCORERS["load"](), 1.0),))
    fleet = Fleet()
    worker("a", window=4, fleet=fleet)
    fleet.set_drain("a", is_draining=True, now=0.0)
    explanation = profile.explain(PlacementRequest(request()), fleet.columns, random.Random(0))
    assert [each.refused_by for each in explanation.verdicts] == [("drain",)]
    assert (explanation.worker_id, explanation.emptied_by) == (None, "drain")


def test_an_empty_result_names_the_filter_that_emptied_it() -> None:
    profile = Profile(filters=(FILTERS["adapter_fits"](), FILTERS["max_load"](load=0.5)))
    fleet, huge = Fleet(), PlacementRequest(request(name="a", size_bytes=10**9))
    assert profile.explain(huge, fleet.columns, random.Random(0)).emptied_by is None
    busy(worker("a", fleet=fleet), None, None)
    assert profile.explain(huge, fleet.columns, random.Random(0)).emptied_by == "adapter_fits"
    worker("b", page_size_bytes=0, fleet=fleet)
    assert profile.explain(huge, fleet.columns, random.Random(0)).worker_id == "b"
    busy(worker("b", page_size_bytes=0, fleet=fleet), None, None)
    assert profile.explain(huge, fleet.columns, random.Random(0)).emptied_by == "max_load"
    busy(worker("b", window=2, page_size_bytes=0, fleet=fleet))
    fleet.set_lease("a", is_live=False, now=0.0)
    assert profile.explain(huge, fleet.columns, random.Random(0)).emptied_by == "has_room"


def test_transient_filters_do_not_make_a_request_unplaceable() -> None:
    profile, fleet = Profile(filters=tuple(each() for each in FILTERS.values())), Fleet()
    busy(worker(kv_pages=100, fleet=fleet), *[None] * 4)
    columns = fleet.columns
    asked = PlacementRequest(request())
    assert profile.choose(asked, columns, columns.is_attached, random.Random(0)) is None
    assert profile.able(asked, columns, columns.is_attached).any()
    huge = PlacementRequest(request(name="a", size_bytes=10**9))
    assert not profile.able(huge, columns, columns.is_attached).any()


URGENT, BASE, ACME = (Profile(name=name) for name in ("urgent", "base", "acme"))
POLICY = PlacementPolicy(
    selected=(
        SelectedProfile(Selector(min_priority=5, max_priority=9), URGENT),
        SelectedProfile(Selector(is_base_only=True), BASE),
        SelectedProfile(Selector(tenants=("acme", "ac-*"), adapters=("acme/*",)), ACME),
    )
)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (request(priority=5), "urgent"),
        (request(priority=9, name="acme/x", tenant="acme"), "urgent"),
        (request(priority=10, name="x"), "default"),
        (request(), "base"),
        (request(name="acme/x", tenant="acme"), "acme"),
        (request(name="acme/x", tenant="ac-2"), "acme"),
        (request(name="other/x", tenant="acme"), "default"),
        (request(name="acme/x", tenant="other"), "default"),
    ],
)
def test_the_first_profile_that_matches_places_a_request(asked: Request, name: str) -> None:
    assert POLICY.profile_for(asked).name == name


@given(fleets(), REQUESTS, REQUESTS, profiles())
def test_what_is_open_to_one_request_is_open_to_all(
    fleet: Fleet, first: PlacementRequest, second: PlacementRequest, profile: Profile
) -> None:
    columns, opened = fleet.columns, profile.open(first, fleet.columns)
    has_room = columns.has_room
    assert profile.choose(second, columns, has_room, random.Random(0), opened) == profile.choose(
        second, columns, has_room, random.Random(0)
    )
    able = profile.able(second, columns, has_room, opened)
    assert able.tolist() == profile.able(second, columns, has_room).tolist()
