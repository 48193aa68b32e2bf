import pytest

from control_plane.core.policy import FairnessScheme, FairnessSettings, TenantSettings
from control_plane.policy.document import PolicyError, load_policy

HEAD = "name: p\nscorers:\n  - {name: load, weight: 1}\n"


def test_tenants_are_read() -> None:
    text = HEAD + (
        "fairness:\n  scheme: arrival\n  default_tokens_per_s: 100\n  tenants:\n"
        "    - {name: batch, weight: 0.25}\n    - {name: '7', tokens_per_s: 5000}\n"
    )
    assert load_policy(text).policy.fairness == FairnessSettings(
        FairnessScheme.ARRIVAL,
        default_tokens_per_s=100.0,
        tenants=(TenantSettings("batch", weight=0.25), TenantSettings("7", tokens_per_s=5000.0)),
    )


@pytest.mark.parametrize("section", ["", "fairness:\n", "fairness:\n  tenants:\n", "fairness: {tenants: []}\n"])
def test_what_is_left_out_takes_its_default(section: str) -> None:
    assert load_policy(HEAD + section).policy.fairness == FairnessSettings()


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("fairness: {scheme: fair}", "line 4: fairness.scheme: cannot be `fair`"),
        ("fairness: {tenant: []}", "line 4: fairness.tenant: unknown setting"),
        ("fairness: {tenants: batch}", "line 4: fairness.tenants: must be a list"),
        ("fairness:\n  tenants:\n    - batch", "line 6: fairness.tenants[0]: must be a mapping"),
        ("fairness:\n  tenants:\n    - {weight: 2}", "line 6: fairness.tenants[0].name: is missing"),
        ("fairness:\n  tenants:\n    - {name: 7}", "line 6: fairness.tenants[0].name: must be text"),
        ("fairness:\n  tenants:\n    - {name: a, weight: 0}", "line 6: fairness.tenants[0].weight: must be from 0.001"),
        ("fairness:\n  tenants:\n    - {name: a, weight: .nan}", "line 6: fairness.tenants[0].weight: must be from"),
        (
            "fairness:\n  tenants:\n    - {name: a, tokens_per_s: x}",
            "line 6: fairness.tenants[0].tokens_per_s: must be",
        ),
        ("fairness:\n  tenants:\n    - name: a\n    - name: a", "line 7: fairness.tenants[1]: `a` is named twice"),
    ],
)
def test_a_faulty_section_is_refused_with_its_line(section: str, problem: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(HEAD + section + "\n")
    (found,) = caught.value.problems
    assert str(found).startswith(problem)
