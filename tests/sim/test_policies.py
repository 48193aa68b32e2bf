"""Policies in virtual time, on workers that are cost models: deadlines, fairness, and very large fleets."""

import time
from dataclasses import replace

import pytest

from benchmarks.slo.fairness import DEFAULT, FLEET, NUM_POLITE, arrivals, merged, meter
from benchmarks.slo.paper import A10G_S2
from benchmarks.slo.policies import ORDERS, policy_of
from control_plane.core.policy import FairnessScheme, FairnessSettings, Policy
from control_plane.simulation.compare import compare
from control_plane.simulation.named import H200_LLAMA_8B
from control_plane.simulation.run import Run
from control_plane.simulation.service import FleetModel
from control_plane.simulation.trace import GammaArrivals, Trace


def short(trace: Trace, until_s: float) -> Trace:
    return Trace(trace.name, tuple(each for each in trace.requests if each.at_s < until_s))


@pytest.mark.parametrize(("variation", "seed"), [(1, 42), (8, 42)])
def test_the_default_is_above_every_order_of_the_paper(variation: int, seed: int) -> None:
    trace = short(A10G_S2.trace(variation, seed), 100.0)
    policies = [policy_of(mode) for mode in (*ORDERS, "early-abort")]
    *others, default = compare(trace, policies, FLEET, seed=seed).outcomes
    for other in others:
        assert default.attainment >= other.attainment, other.policy
        assert default.satisfaction > other.satisfaction, other.policy
    assert default.errors.keys() == {"SLO_UNREACHABLE"}
    assert 0 < default.predictor_error_s < 6.0


def test_the_simulated_rule_of_the_paper_does_what_the_papers_did() -> None:
    (outcome,) = compare(A10G_S2.trace(2), [policy_of("paper-abort")], A10G_S2.fleet).outcomes
    assert outcome.attainment == pytest.approx(A10G_S2.attainment["paper-abort"][1], abs=0.05)


def test_polite_tenants_hardly_notice_a_flood() -> None:
    polite = [arrivals(f"polite-{index}", 0.1, 100 + index, 60.0) for index in range(NUM_POLITE)]
    flood = merged("flood", [*polite, arrivals("flood", 5.0, 199, 60.0)])
    unfair = replace(DEFAULT, name="unfair", fairness=FairnessSettings(FairnessScheme.ARRIVAL))
    fair, arrival = compare(flood, [DEFAULT, unfair], FLEET).outcomes

    def attainment(outcome: object) -> float:
        found = [each for each in outcome.tenants if each.tenant != "flood"]
        return sum(each.attainment for each in found) / len(found)

    assert attainment(fair) >= 0.9
    assert attainment(fair) > attainment(arrival) + 0.1


def test_backlogged_tenants_are_never_further_apart_than_the_bound() -> None:
    metered = meter(seed=1, duration_s=30.0)
    assert metered.outcome is not None
    assert metered.outcome.num_finished > 150
    assert 0 < metered.largest_gap < metered.bound


def test_a_thousand_workers_and_a_hundred_thousand_adapters() -> None:
    arrivals_ = GammaArrivals(
        requests_per_s=1500.0,
        coefficient_of_variation=1.0,
        duration_s=2.0,
        num_adapters=100_000,
        alpha=0.3,
        ranks=(8, 16, 32, 64),
        bytes_per_rank=5_240_000,
        output_tokens=(8, 64),
        first_token_deadline_s=2.0,
    )
    service = replace(H200_LLAMA_8B, steps_between=8, steps_per_look=8)
    fleet = FleetModel(1000, service, latency_s=0.001, status_s=1.0, losses=20, loss_s=1.0)
    began = time.process_time()
    outcome = Run(arrivals_.draw("large", 1), Policy("default"), fleet, seed=1).play()
    assert outcome.num_finished == 3000
    assert outcome.attainment > 0.99
    assert time.process_time() - began < 60.0
