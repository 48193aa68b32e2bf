from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.placement.filters.labels import Labels
from control_plane.core.placement.filters.tenants import TenantMode, Tenants
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.policy import AdmissionMode, AdmissionSettings, Policy
from control_plane.core.settings import LabelMatch
from control_plane.policy.document import PolicyError, PolicyProblem, load_policy

GOOD = """\
name: good
scorers:
  - {name: load, weight: 1}
"""


def problems(text: str) -> tuple[PolicyProblem, ...]:
    with pytest.raises(PolicyError) as caught:
        load_policy(text)
    return caught.value.problems


def test_what_is_left_out_takes_its_default() -> None:
    policy = load_policy(GOOD).policy
    default = Policy("good")
    assert policy.placement.default.filters == default.placement.default.filters
    assert policy.placement.default.picker == default.placement.default.picker
    assert (policy.admission, policy.clustering, policy.dispatch) == (
        default.admission,
        default.clustering,
        default.dispatch,
    )
    assert load_policy(GOOD + "admission:\nfilters:\n").policy.admission == AdmissionSettings()


def test_everything_that_is_given_is_taken() -> None:
    text = GOOD + "admission: {mode: lcfs, max_queued: 7, no_worker_grace_s: 3}\nfilters: []\n"
    text += "picker: {name: weighted_random, sharpness: 2}\n"
    policy = load_policy(text).policy
    assert policy.admission == AdmissionSettings(mode=AdmissionMode.LCFS, max_queued=7, no_worker_grace_s=3.0)
    assert isinstance(policy.admission.no_worker_grace_s, float)
    assert policy.placement.default.filters == ()
    assert policy.placement.default.picker == WeightedRandom(sharpness=2.0)


def test_labels_and_tenants_are_taken() -> None:
    text = GOOD + "filters: [{name: labels, match: {zone: a, gpu: [h100, '3']}}, {name: tenants, mode: own}]\n"
    assert load_policy(text).policy.placement.default.filters == (
        Labels(match=LabelMatch((("zone", ("a",)), ("gpu", ("h100", "3"))))),
        Tenants(mode=TenantMode.OWN),
    )


def test_a_digest_names_the_text() -> None:
    first, second = load_policy(GOOD), load_policy(GOOD + "# a comment\n")
    assert first.policy.digest.startswith("sha256:")
    assert len(first.policy.digest) == 71
    assert first.policy.digest != second.policy.digest
    assert first == load_policy(GOOD)
    assert first.text == GOOD


FAULTS = [
    ("name: a b", "name", "must be text of at most 64 letters"),
    ("name: 7", "name", "must be text"),
    ("nane: x", "nane", "unknown key: did you mean `name`?"),
    ("colour: x", "colour", "unknown key: use one of `admission`, `clustering`"),
    ("admission: 3", "admission", "must be a mapping"),
    ("admission: {mode: early_abort}", "admission.mode", "cannot be `early_abort`: did you mean `early-abort`?"),
    ("admission: {mode: [1]}", "admission.mode", "cannot be a list: use one of"),
    (
        "fairness: {default_tokens_per_s: 1.0e-300}",
        "fairness.default_tokens_per_s",
        "must be 0, or from 0.001 to 1e+12, not 1e-300",
    ),
    (
        "fairness: {tenants: [{name: t, tokens_per_s: 0.0001}]}",
        "fairness.tenants[0].tokens_per_s",
        "must be 0, or from 0.001 to 1e+12, not 0.0001",
    ),
    ("admission: {max_queued: 0}", "admission.max_queued", "must be from 1 to 1000000, not 0"),
    ("admission: {max_queued: 1.5}", "admission.max_queued", "must be a whole number, not `1.5`"),
    ("admission: {max_queued: true}", "admission.max_queued", "must be a whole number, not `true`"),
    ("admission: {max_queued: '5'}", "admission.max_queued", "must be a whole number, not the text `5`"),
    ("admission: {max_queued: {}}", "admission.max_queued", "must be a whole number, not a mapping"),
    ("admission: {max_queue: 5}", "admission.max_queue", "unknown setting: did you mean `max_queued`?"),
    ("admission: {max_queued: 5, max_queued: 6}", "admission.max_queued", "is given twice, first on line 4"),
    ("admission: {no_worker_grace_s: .nan}", "admission.no_worker_grace_s", "must be from 0 to 3600, not nan"),
    ("admission: {no_worker_grace_s: -.inf}", "admission.no_worker_grace_s", "must be from 0 to 3600, not -inf"),
    ("admission: {no_worker_grace_s: soon}", "admission.no_worker_grace_s", "must be a number, not `soon`"),
    ("filters: adapter_fits", "filters", "must be a list"),
    ("filters: [adapter_fit]", "filters[0].name", "`adapter_fit` is not known: did you mean `adapter_fits`?"),
    ("filters: [{headroom: 1}]", "filters[0].name", "is missing: use one of `adapter_fits`"),
    ("filters: [{name: adapter_fits, headroom: 2}]", "filters[0].headroom", "must be from 0 to 0.95, not 2"),
    ("filters: [{name: sequence_fits, weight: 2}]", "filters[0].weight", "unknown setting"),
    ("filters: [labels]", "filters[0].match", "is missing: `labels` means nothing without"),
    ("filters: [{name: labels}]", "filters[0].match", "is missing"),
    ("filters: [{name: labels, match: a}]", "filters[0].match", "must be a mapping"),
    ("filters: [{name: labels, match: {}}]", "filters[0].match", "must hold at least one label"),
    ("filters: [{name: labels, match: {zone: 3}}]", "filters[0].match.zone", "must be text, or a list of texts"),
    ("filters: [{name: labels, match: {zone: [a, 3]}}]", "filters[0].match.zone", "must be text"),
    ("filters: [{name: labels, match: {zone: []}}]", "filters[0].match.zone", "must be text"),
    ("filters: [{name: tenants, mode: owned}]", "filters[0].mode", "cannot be `owned`: did you mean `own`?"),
    ("filters: [5]", "filters[0]", "must be a mapping"),
    ("picker: best", "picker.name", "`best` is not known: use one of `max_score`"),
    ("picker: [max_score]", "picker", "must be a mapping"),
    ("1: 2", "", "keys must be plain text"),
    ("? [a]\n: 2", "", "keys must be plain text"),
    ("dispatch: !!python/name:os.system {}", "dispatch", "must be a mapping"),
    ("filters: !!set {}", "filters", "must be a list"),
]


@pytest.mark.parametrize(("line", "path", "message"), FAULTS)
def test_faults_are_named_with_line_and_path(line: str, path: str, message: str) -> None:
    text = (GOOD.replace("name: good\n", "", 1) if line.startswith(("name:", "nane:")) else GOOD) + line + "\n"
    at = text.splitlines().index(line.splitlines()[0]) + 1
    found = [each for each in problems(text) if each.path == path and each.line == at]
    assert len(found) == 1, problems(text)
    assert found[0].message.startswith(message)


SCORER_FAULTS = [
    ("[]", 2, "scorers", "must hold at least one scorer with a weight above 0"),
    ("[{name: load, weight: 0}]", 2, "scorers", "must hold at least one"),
    ("[load]", 2, "scorers[0].weight", "is missing"),
    ("[{name: loda, weight: 1}]", 2, "scorers[0].name", "`loda` is not known: did you mean `load`?"),
    ("[{name: load, weight: -1}]", 2, "scorers[0].weight", "must be from 0 to 100, not -1"),
    ("[{name: load, weight: 101}]", 2, "scorers[0].weight", "must be from 0 to 100"),
    ("[{name: load, weight: heavy}]", 2, "scorers[0].weight", "must be a number, not `heavy`"),
    ("[{weight: 1}]", 2, "scorers[0].name", "is missing"),
    ("[{name: load, weight: 1, pool: 1}]", 2, "scorers[0].pool", "unknown setting"),
    (
        "\n  - {name: load, weight: 1}\n  - {name: load, weight: 1}",
        4,
        "scorers[1]",
        "`load` is named twice, first on line 3",
    ),
]


@pytest.mark.parametrize(("scorers", "line", "path", "message"), SCORER_FAULTS)
def test_faults_of_scorers(scorers: str, line: int, path: str, message: str) -> None:
    (problem,) = problems(f"name: x\nscorers: {scorers}\n")
    assert (problem.line, problem.path) == (line, path)
    assert problem.message.startswith(message)


def test_all_faults_are_reported_at_once_by_line() -> None:
    text = "admission:\n  mode: fast\n  max_queued: many\nscorers:\n  - name: loud\n    weight: 1000\nextra: 1\n"
    found = problems(text)
    assert [each.path for each in found] == [
        "name",
        "admission.mode",
        "admission.max_queued",
        "scorers[0].name",
        "scorers[0].weight",
        "extra",
    ]
    assert [each.line for each in found] == [1, 2, 3, 5, 6, 7]
    with pytest.raises(PolicyError, match=r"line 2: admission.mode: .*; line 3: admission.max_queued"):
        load_policy(text)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 0, "the file is empty"),
        ("# nothing\n", 0, "the file is empty"),
        ("name: [", 1, "this is not YAML"),
        ("name: x\n\tscorers: 1", 2, "this is not YAML"),
        ("name: x\n---\nname: y", 2, "this is not YAML: but found another document"),
        ("name: *other", 1, "this is not YAML: found undefined alias"),
        ("[" * 20_000, 0, "values are nested too deeply"),
        ("x" * 300_000, 0, "the file has 300000 characters"),
        ("name: \x00", 0, "this is not YAML"),
        ("- name", 1, "must be a mapping"),
        ("just text", 1, "must be a mapping"),
    ],
)
def test_what_is_no_policy_at_all(text: str, line: int, message: str) -> None:
    (problem,) = problems(text)
    assert problem.line == line
    assert problem.message.startswith(message)


KEYS = [
    "name",
    "profiles",
    "extends",
    "when",
    "default",
    "scorers",
    "filters",
    "picker",
    "admission",
    "load",
    "weight",
    "mode",
    "max_score",
    "lcfs",
    "x",
]
WORDS = st.sampled_from((*KEYS, "", 1, -5, None, float("nan"), True))
TREES = st.recursive(
    WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


@given(st.one_of(st.text(max_size=80), TREES.map(str), st.text("nam: e-[]{}&*!|>'\"\n\t", max_size=60)))
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    with suppress(PolicyError):
        load_policy(text)
