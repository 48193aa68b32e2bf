import pytest

from control_plane.core.placement.filters.labels import Labels
from control_plane.core.placement.pickers.power_of_two import PowerOfTwo
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.placement.policy import Selector
from control_plane.core.placement.profile import Profile
from control_plane.core.settings import LabelMatch
from control_plane.policy.document import PolicyError, PolicyProblem, load_policy

GOOD = """\
name: good
filters: []
scorers:
  - {name: load, weight: 1}
picker: power_of_two
profiles:
  - name: urgent
    extends: default
    when: {min_priority: 5}
    picker: weighted_random
  - name: acme
    extends: near
    when:
      tenants: [acme, acme-*]
      adapters: acme/*
  - name: near
    extends: urgent
    filters:
      - {name: labels, match: {zone: a}}
  - name: base
    when: {base_only: true, max_priority: 4}
    scorers:
      - {name: queue_depth, weight: 2}
"""


def problems(text: str) -> tuple[PolicyProblem, ...]:
    with pytest.raises(PolicyError) as caught:
        load_policy(text)
    return caught.value.problems


def test_profiles_take_what_they_do_not_say_from_those_that_they_extend() -> None:
    placement = load_policy(GOOD).policy.placement
    assert [each.profile.name for each in placement.selected] == ["urgent", "acme", "base"]
    urgent, acme, base = (each.profile for each in placement.selected)
    default = placement.default
    assert (default.filters, default.picker, default.name) == ((), PowerOfTwo(), "default")
    assert (urgent.filters, urgent.scorers, urgent.picker) == ((), default.scorers, WeightedRandom())
    assert acme.filters == (Labels(match=LabelMatch((("zone", ("a",)),))),)
    assert (acme.scorers, acme.picker) == (default.scorers, WeightedRandom())
    # What extends nothing has the built-in filters and picker.
    assert (base.filters, base.picker) == (Profile().filters, Profile().picker)
    assert [(each.scorer.name, each.weight) for each in base.scorers] == [("queue_depth", 2.0)]


def test_selectors_are_taken_as_they_stand() -> None:
    assert [each.when for each in load_policy(GOOD).policy.placement.selected] == [
        Selector(min_priority=5),
        Selector(tenants=("acme", "acme-*"), adapters=("acme/*",)),
        Selector(is_base_only=True, max_priority=4),
    ]


def test_the_default_may_stand_in_the_list() -> None:
    text = "name: x\nprofiles:\n  - {name: default, scorers: [{name: load, weight: 1}]}\n"
    text += "  - {name: own, extends: default, when: {tenants: t}}\n"
    placement = load_policy(text).policy.placement
    assert (placement.default.name, [each.profile.name for each in placement.selected]) == ("default", ["own"])


SCORERS = "scorers: [{name: load, weight: 1}]"
WHEN = "when: {tenants: t}"
FAULTS = [
    ("{name: a, extends: b, WHEN}", "profiles[0].extends", "there is no profile `b`: use one of `a`, `default`"),
    (
        "{name: a, extends: defalt, WHEN}",
        "profiles[0].extends",
        "there is no profile `defalt`: did you mean `default`?",
    ),
    ("{name: a, extends: 3, WHEN}", "profiles[0].extends", "there is no profile ``"),
    ("{name: a, extends: a, WHEN}", "profiles[0].extends", "the profile extends itself: a → a"),
    ("{name: a, WHEN}", "profiles[0].scorers", "is missing"),
    ("{name: a, SCORERS}", "profiles[0].when", "is missing: say which requests"),
    ("{name: a, SCORERS, when: {}}", "profiles[0].when", "must hold at least one condition"),
    ("{name: a, SCORERS, when: urgent}", "profiles[0].when", "must be a mapping"),
    ("{name: a, SCORERS, when: {tenant: t}}", "profiles[0].when.tenant", "unknown condition: did you mean `tenants`?"),
    ("{name: a, SCORERS, when: {tenants: []}}", "profiles[0].when.tenants", "must be text, or a list of texts"),
    ("{name: a, SCORERS, when: {adapters: [x, 1]}}", "profiles[0].when.adapters", "must be text, or a list of texts"),
    ("{name: a, SCORERS, when: {base_only: yes please}}", "profiles[0].when.base_only", "must be true or false, not"),
    (
        "{name: a, SCORERS, when: {base_only: true, adapters: x}}",
        "profiles[0].when.adapters",
        "matches nothing beside base_only",
    ),
    ("{name: a, SCORERS, when: {min_priority: high}}", "profiles[0].when.min_priority", "must be a whole number"),
    ("{name: a, SCORERS, when: {min_priority: 99999999999}}", "profiles[0].when.min_priority", "must be from"),
    (
        "{name: a, SCORERS, when: {min_priority: 3, max_priority: 2}}",
        "profiles[0].when.max_priority",
        "is 2, below min_priority, which is 3",
    ),
    ("{SCORERS, WHEN}", "profiles[0].name", "is missing: give the profile a name"),
    ("{name: a b, SCORERS, WHEN}", "profiles[0].name", "must be text of at most 64 letters"),
    ("{name: default, SCORERS}", "profiles[0].name", "`default` is taken by the file's own filters, scorers or picker"),
    ("{name: a, SCORERS, WHEN, weight: 2}", "profiles[0].weight", "unknown key"),
    ("{name: a, WHEN, scorers: [{name: lod, weight: 1}]}", "profiles[0].scorers[0].name", "`lod` is not known"),
    ("{name: a, WHEN, scorers: [{name: load, weight: 900}]}", "profiles[0].scorers[0].weight", "must be from 0 to 100"),
    ("{name: a, WHEN, scorers: []}", "profiles[0].scorers", "must hold at least one scorer with a weight above 0"),
    ("{name: a, WHEN, SCORERS, filters: [lease, leese]}", "profiles[0].filters[1].name", "`leese` is not known"),
    ("{name: a, WHEN, SCORERS, picker: worst}", "profiles[0].picker.name", "`worst` is not known"),
    ("urgent", "profiles[0]", "must be a mapping"),
]


@pytest.mark.parametrize(("profile", "path", "message"), FAULTS)
def test_faults_are_named_with_line_and_path(profile: str, path: str, message: str) -> None:
    profile = profile.replace("SCORERS", SCORERS).replace("WHEN", WHEN)
    (problem,) = problems(f"name: x\n{SCORERS}\nprofiles:\n  - {profile}\n")
    assert (problem.line, problem.path) == (4, path)
    assert problem.message.startswith(message)


def test_a_circle_is_named_wherever_it_is_entered() -> None:
    text = f"name: x\n{SCORERS}\nprofiles:\n"
    text += "".join(f"  - {{name: {name}, extends: {other}, {WHEN}}}\n" for name, other in ("ab", "bc", "ca", "da"))
    found = problems(text)
    assert [(each.line, each.path) for each in found] == [
        (4, "profiles[0].extends"),
        (5, "profiles[1].extends"),
        (6, "profiles[2].extends"),
    ]
    assert {each.message for each in found} == {
        f"the profile extends itself: {circle}" for circle in ("a → b → c → a", "b → c → a → b", "c → a → b → c")
    }


@pytest.mark.parametrize(
    ("text", "line", "path", "message"),
    [
        (f"profiles:\n  - {{name: a, {SCORERS}, {WHEN}}}\n", 3, "profiles", "no profile is named `default`"),
        ("profiles:\n", 2, "profiles", "no profile is named `default`"),
        (f"{SCORERS}\nprofiles: all\n", 3, "profiles", "must be a list"),
        (
            f"profiles:\n  - {{name: default, {SCORERS}}}\n  - {{name: default, {SCORERS}}}\n",
            4,
            "profiles[1].name",
            "`default` is taken by profiles[0]",
        ),
        (
            f"profiles:\n  - {{name: default, {SCORERS}, {WHEN}}}\n",
            3,
            "profiles[0].when",
            "is not for the default profile",
        ),
        (f"{SCORERS}\nextends: default\n", 3, "extends", "unknown key"),
        (f"{SCORERS}\nprofiles: [{'{}, ' * 101}]\n", 3, "profiles", "there are 101 profiles: at most 100 are read"),
    ],
)
def test_faults_of_the_list(text: str, line: int, path: str, message: str) -> None:
    found = [each for each in problems("name: x\n" + text) if each.path == path]
    assert [each.line for each in found] == [line]
    assert found[0].message.startswith(message)
