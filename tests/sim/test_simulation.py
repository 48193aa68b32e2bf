"""Whatever happens to a fleet, the director keeps its promises."""

from dataclasses import replace

import pytest

from control_plane.core.demand import ReplicationSettings
from control_plane.core.errors import QueueFull, SloUnreachable
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.placement.profile import Profile
from control_plane.core.policy import AdmissionMode, AdmissionSettings, ClusteringSettings, Policy
from control_plane.core.types import Failed, Finished, FinishReason
from tests.sim.placements import EVERYTHING, PROFILES
from tests.sim.simulated_worker import WorkerModel
from tests.sim.simulation import Outcome, Scenario, Simulation

FCFS, EARLY_ABORT = AdmissionMode.FCFS, AdmissionMode.EARLY_ABORT

FAULTY = Scenario(
    num_requests=400,
    model=WorkerModel(reject_share=0.03, fail_share=0.002),
    cancel_share=0.15,
    losses=12,
    lease_faults=6,
    drains=6,
    late_message_share=0.5,
)

POLICIES = {
    "default": Policy("default"),
    "lcfs": Policy("lcfs", admission=AdmissionSettings(mode=AdmissionMode.LCFS)),
    "by chance": Policy("by chance", placement=PlacementPolicy(Profile(picker=WeightedRandom()))),
    "tight": Policy("tight", clustering=ClusteringSettings(max_adapters_per_worker=2, max_run=4, max_age_s=0.2)),
}


def run(scenario: Scenario, policy: Policy, seed: int) -> Outcome:
    return Simulation(scenario, policy, seed).run()


def finish_reasons(outcome: Outcome) -> list[FinishReason]:
    return [sight.end.reason for sight in outcome.witness.sights.values() if isinstance(sight.end, Finished)]


def errors(outcome: Outcome) -> list[Exception]:
    return [sight.end.error for sight in outcome.witness.sights.values() if isinstance(sight.end, Failed)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_every_request_ends_once_whatever_fails(policy: Policy, seed: int) -> None:
    outcome = run(FAULTY, policy, seed)
    assert len(outcome.witness.sights) == FAULTY.num_requests
    assert len(finish_reasons(outcome)) > FAULTY.num_requests / 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("placement", [EVERYTHING, PROFILES], ids=["everything", "profiles"])
def test_every_request_ends_once_whatever_placement_asks(placement: PlacementPolicy, seed: int) -> None:
    replication = ReplicationSettings(worker_requests_per_s=5.0, max_workers=2)
    policy = Policy("much", placement=placement, replication=replication)
    outcome = run(replace(FAULTY, num_requests=200, losses=6), policy, seed)
    assert len(finish_reasons(outcome)) > 100


@pytest.mark.parametrize("seed", range(4))
def test_without_faults_every_request_ends_well(seed: int) -> None:
    outcome = run(Scenario(), Policy("default"), seed)
    assert finish_reasons(outcome) == [FinishReason.LENGTH] * 500


@pytest.mark.parametrize("seed", range(4))
def test_losses_alone_lose_no_request(seed: int) -> None:
    policy = Policy("patient")
    policy = replace(policy, dispatch=replace(policy.dispatch, max_attempts=100))
    outcome = run(Scenario(losses=30, late_message_share=1.0), policy, seed)
    assert finish_reasons(outcome) == [FinishReason.LENGTH] * 500
    assert max(sight.num_dispatches for sight in outcome.witness.sights.values()) > 1


def test_one_seed_gives_one_transcript() -> None:
    first, second, other = (run(FAULTY, POLICIES["by chance"], seed) for seed in (7, 7, 8))
    assert first.transcript == second.transcript
    assert first.transcript != other.transcript


@pytest.mark.parametrize("seed", range(3))
def test_policies_change_under_load(seed: int) -> None:
    scenario = replace(FAULTY, policy_changes=tuple(POLICIES.values()) * 3, first_token_deadline_s=2.0)
    run(scenario, Policy("first"), seed)


def test_a_hundred_workers() -> None:
    scenario = Scenario(num_requests=3000, requests_per_s=2000.0, num_workers=100, num_adapters=500, losses=20)
    outcome = run(scenario, Policy("default"), 1)
    assert len(finish_reasons(outcome)) == 3000


def test_the_queue_is_bounded_and_says_when_to_come_back() -> None:
    policy = Policy("small", admission=AdmissionSettings(max_queued=30, max_queued_per_tenant=12))
    outcome = run(Scenario(num_requests=1000, requests_per_s=2000.0, num_workers=1), policy, 3)
    refused = [error for error in errors(outcome) if isinstance(error, QueueFull)]
    assert len(refused) > 500
    assert {error.metadata["limit"] for error in refused} == {"max_queued", "max_queued_per_tenant"}
    assert all(error.retry_after_s is not None and error.retry_after_s > 0 for error in refused)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("load", [1.5, 3.0])
def test_early_abort_meets_more_deadlines_than_fcfs_under_overload(load: float, seed: int) -> None:
    # Two workers, 8 sequences each at 50 tokens a second, 12.5 tokens a request: about 64 requests a second.
    scenario = Scenario(
        num_requests=1200, requests_per_s=64 * load, num_workers=2, first_token_deadline_s=1.0, priorities=(0,)
    )
    modes = {mode: Policy(mode.value, admission=AdmissionSettings(mode=mode)) for mode in (FCFS, EARLY_ABORT)}
    outcomes = {mode: run(scenario, policy, seed) for mode, policy in modes.items()}
    attainment = {mode: outcome.attainment for mode, outcome in outcomes.items()}
    assert attainment[EARLY_ABORT] > 2 * attainment[FCFS]
    # Nearly as many as the workers can serve, all in time.
    assert attainment[EARLY_ABORT] > 0.8 / load
    assert any(isinstance(error, SloUnreachable) for error in errors(outcomes[EARLY_ABORT]))
    assert not errors(outcomes[FCFS])


def test_early_abort_refuses_nobody_while_there_is_room() -> None:
    scenario = Scenario(num_requests=500, requests_per_s=30.0, num_workers=2, first_token_deadline_s=1.0)
    outcome = run(scenario, Policy("default"), 5)
    assert not errors(outcome)
    assert outcome.attainment > 0.99
