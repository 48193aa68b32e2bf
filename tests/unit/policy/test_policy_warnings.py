from dataclasses import replace

import pytest

from control_plane.core.placement.filters.min_free_pages import MinFreePages
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.placement.profile import Profile
from control_plane.core.policy import (
    AdmissionMode,
    AdmissionSettings,
    ClusteringSettings,
    DispatchSettings,
    FairnessScheme,
    FairnessSettings,
    Policy,
    TenantSettings,
)
from control_plane.core.predictor import PredictorSnapshot
from control_plane.core.snapshot import DirectorSnapshot, WorkerSnapshot
from control_plane.operations.measured import measured_service
from control_plane.policy.document import PolicyError, load_policy
from control_plane.policy.warnings import MeasuredService, policy_warnings
from tests.unit.control_core.makers import status

DEADLINE = AdmissionSettings(default_first_token_deadline_s=6.0)
MEASURED = MeasuredService(prefill_tokens_per_s=1000.0, requests_per_s=10.0, longest_prompt_tokens=8000)

CASES = {
    "a margin that drops all": (
        Policy("p", admission=replace(DEADLINE, mode=AdmissionMode.PAPER_ABORT, abort_margin_s=6.0)),
        "admission.abort_margin_s",
        True,
    ),
    "a filter that refuses all": (
        Policy("p", placement=PlacementPolicy(Profile(filters=(MinFreePages(share=1.0),)))),
        "filters[0].share",
        False,
    ),
    "a deadline that nothing enforces": (
        Policy("p", admission=replace(DEADLINE, mode=AdmissionMode.FCFS)),
        "admission.default_first_token_deadline_s",
        False,
    ),
    "clustering past the deadline": (
        Policy("p", admission=DEADLINE, clustering=ClusteringSettings(max_age_s=6.0)),
        "clustering.max_age_s",
        False,
    ),
    "a retry past the deadline": (
        Policy("p", admission=DEADLINE, dispatch=DispatchSettings(retry_delay_s=10.0)),
        "dispatch.retry_delay_s",
        False,
    ),
    "a bound that one tenant fills": (
        Policy("p", admission=AdmissionSettings(max_queued=100, max_queued_per_tenant=100)),
        "admission.max_queued_per_tenant",
        False,
    ),
    "a delay that is cut": (
        Policy("p", admission=AdmissionSettings(default_retry_delay_s=60.0)),
        "admission.default_retry_delay_s",
        False,
    ),
    "tokens without weight": (
        Policy("p", fairness=FairnessSettings(prompt_token_weight=0.0, output_token_weight=0.0)),
        "fairness.output_token_weight",
        False,
    ),
    "weights without effect": (
        Policy("p", fairness=FairnessSettings(FairnessScheme.ARRIVAL, tenants=(TenantSettings("t", weight=2.0),))),
        "fairness.tenants[0].weight",
        False,
    ),
    "overtaking far past the deadline": (
        Policy("p", admission=replace(DEADLINE, overtaking_s=61.0)),
        "admission.overtaking_s",
        False,
    ),
    "a quota below one token": (
        Policy("p", fairness=FairnessSettings(default_tokens_per_s=0.09)),
        "fairness.default_tokens_per_s",
        False,
    ),
    "a tenant's quota below one token": (
        Policy("p", fairness=FairnessSettings(tenants=(TenantSettings("t", tokens_per_s=0.09),))),
        "fairness.tenants[0].tokens_per_s",
        False,
    ),
}


@pytest.mark.parametrize(("policy", "path", "starves"), CASES.values(), ids=CASES.keys())
def test_a_doubtful_setting_is_named(policy: Policy, path: str, starves: bool) -> None:
    (warning,) = policy_warnings(policy)
    assert (warning.path, warning.starves) == (path, starves)


def test_the_default_policy_raises_no_doubt() -> None:
    assert policy_warnings(Policy("default"), MEASURED) == []


def test_what_was_measured_raises_more() -> None:
    policy = Policy("p", admission=replace(DEADLINE, max_queued=1000, max_queued_per_tenant=100))
    assert policy_warnings(policy) == []
    assert [(each.path, each.message) for each in policy_warnings(policy, MEASURED)] == [
        (
            "admission.default_first_token_deadline_s",
            "a prompt of 8000 tokens takes 8 s alone, longer than 6 s: such requests are never in time; allow more",
        ),
        (
            "admission.max_queued",
            "1000 requests take 100 s to serve, far past the deadline of 6 s: about 60 can be in time",
        ),
    ]


def test_a_policy_that_would_starve_every_request_is_refused_with_its_line() -> None:
    starving = "name: p\nscorers:\n  - {name: load, weight: 1}\nadmission:\n  mode: paper-abort\n"
    starving += "  default_first_token_deadline_s: 0.5\n"
    with pytest.raises(PolicyError, match=r"line 6: admission.abort_margin_s: drops every request at once"):
        load_policy(starving)


def test_a_deadline_before_any_first_token_is_doubted() -> None:
    measured = replace(MEASURED, overhead_s=7.0)
    (warning, *_) = policy_warnings(Policy("p", admission=DEADLINE), measured)
    assert warning.message == "no first token comes before 7 s: no request is in time; allow more"


DOUBTFUL = """name: p
profiles:
  - name: default
    scorers:
      - {name: load, weight: 1}
    filters:
      - adapter_fits
      - name: min_free_pages
        share: 1.0
  - name: other
    extends: default
    when: {tenants: [t]}
admission:
  mode: early-abort
  max_queued: 10
  default_first_token_deadline_s: 6.0
  overtaking_s: 100
fairness:
  quota_burst_s: 1
  tenants:
    - name: t
      tokens_per_s: 0.5
"""


def test_a_doubt_names_the_line_and_the_path_in_the_file_once() -> None:
    # What is left to its default has the line of what makes it doubtful; a filter is named where it stands.
    assert [(each.line, each.path) for each in load_policy(DOUBTFUL).doubts()] == [
        (9, "profiles[0].filters[1].share"),
        (15, "admission.max_queued_per_tenant"),
        (17, "admission.overtaking_s"),
        (22, "fairness.tenants[0].tokens_per_s"),
    ]
    assert (16, "admission.default_first_token_deadline_s") in [
        (each.line, each.path) for each in load_policy(DOUBTFUL).doubts(MEASURED)
    ]


def test_what_was_measured_is_taken_from_the_director() -> None:
    rates = {"a": 100.0, "b": 300.0, "new": 0.0}
    workers = tuple(WorkerSnapshot(status(each), True, 0, (), prefill_tokens_per_s=rates[each]) for each in rates)
    predictor = PredictorSnapshot(overhead_s=0.5)
    snapshot = DirectorSnapshot(0, 0, 0, workers, predictor=predictor, requests_per_s=4.0)
    assert measured_service(snapshot, context_length=64) == MeasuredService(200.0, 4.0, 63, 0.5)
    assert measured_service(DirectorSnapshot(0, 0, 0, ()), context_length=64) == MeasuredService(
        longest_prompt_tokens=63
    )
