import random
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.fleet import Worker
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.policy import PlacementPolicy, WeightedScorer
from control_plane.core.placement.registry import FILTERS, PICKERS, SCORERS
from control_plane.core.settings import bounds_of
from control_plane.core.types import ResidencyTier
from tests.unit.control_core.makers import busy, request, worker

TIERS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([ResidencyTier.HOST, ResidencyTier.POOL]))


@st.composite
def workers(draw: st.DrawFn) -> Worker:
    window = draw(st.integers(0, 6))
    made = worker(
        draw(st.text("xyz", min_size=1, max_size=3)),
        window=window,
        residency=draw(TIERS),
        total_pages=draw(st.integers(0, 50)),
        kv_pages=draw(st.integers(0, 50)),
        pending_prefill_tokens=draw(st.integers(0, 10_000)),
    )
    names = draw(st.lists(st.sampled_from(["a", "b", None]), max_size=window))
    return busy(made, *names, rank=draw(st.sampled_from([1, 8, 64])))


FLEETS = st.lists(workers(), max_size=6, unique_by=lambda each: each.worker_id)
REQUESTS = st.builds(
    lambda name, rank, size: PlacementRequest(request(name=name, rank=rank, size_bytes=size)),
    st.sampled_from(["a", "b", None]),
    st.sampled_from([1, 8, 64]),
    st.integers(1, 60_000),
)


@pytest.mark.parametrize("registry", [FILTERS, SCORERS, PICKERS])
def test_plugins_are_registered_by_name_with_bounded_settings(registry: dict[str, type]) -> None:
    for name, plugin in registry.items():
        assert plugin.name == name
        assert plugin.__doc__
        for field in fields(plugin):
            bounds = bounds_of(field.metadata)
            assert bounds is not None
            assert field.default in bounds


@given(FLEETS, REQUESTS)
def test_scores_are_between_0_and_1(fleet: list[Worker], asked: PlacementRequest) -> None:
    for scorer in SCORERS.values():
        for each in fleet:
            assert 0.0 <= scorer().score(asked, each) <= 1.0


@given(FLEETS, REQUESTS, st.sampled_from(sorted(PICKERS)), st.integers(), st.randoms(use_true_random=False))
def test_explain_decides_as_choose_does_whatever_the_order(
    fleet: list[Worker], asked: PlacementRequest, picker: str, seed: int, shuffler: random.Random
) -> None:
    policy = PlacementPolicy(
        filters=tuple(each() for each in FILTERS.values()),
        scorers=tuple(WeightedScorer(each(), index + 1.0) for index, each in enumerate(SCORERS.values())),
        picker=PICKERS[picker](),
    )
    explanation = policy.explain(asked, fleet, random.Random(seed))
    shuffler.shuffle(fleet)
    assert policy.choose(asked, fleet, random.Random(seed)) == explanation.worker_id
    assert [each.worker_id for each in explanation.verdicts] == sorted(each.worker_id for each in fleet)
    refused = {each.worker_id for each in explanation.verdicts if each.refused_by}
    assert (explanation.worker_id is None) == (len(refused) == len(fleet))
    assert explanation.worker_id not in refused
    for verdict in explanation.verdicts:
        assert 0.0 <= verdict.total <= 1.0
        assert bool(verdict.refused_by) != bool(verdict.scores)


def test_explain_says_everything() -> None:
    policy = PlacementPolicy(
        scorers=(WeightedScorer(SCORERS["load"](), 1.0), WeightedScorer(SCORERS["free_pages"](), 3.0))
    )
    fleet = [busy(worker("b", kv_pages=50), None, None), worker("a", total_pages=0)]
    explanation = policy.explain(PlacementRequest(request()), fleet, random.Random(0))
    first, second = explanation.verdicts
    assert (first.worker_id, first.refused_by) == ("a", ("sequence_fits",))
    assert [(each.scorer, each.weight, each.value) for each in second.scores] == [
        ("load", 1, 0.5),
        ("free_pages", 3, 0.5),
    ]
    assert second.total == 0.5
    assert (explanation.worker_id, explanation.picker) == ("b", "max_score")


def test_transient_filters_do_not_make_a_request_unplaceable() -> None:
    policy = PlacementPolicy(filters=tuple(each() for each in FILTERS.values()))
    full = busy(worker(kv_pages=100), *[None] * 4)
    assert policy.choose(PlacementRequest(request()), [full], random.Random(0)) is None
    assert policy.is_placeable(PlacementRequest(request()), [full])
    assert not policy.is_placeable(PlacementRequest(request(name="a", size_bytes=10**9)), [full])
