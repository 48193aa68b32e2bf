from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from control_plane.core.policy import Policy
from control_plane.policy.document import load_policy
from tests.sim.simulation import Scenario, Simulation

FOLDER = Path(__file__).parents[3] / "deploy" / "policies"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_policies() -> None:
    assert [path.stem for path in FILES] == ["consolidate", "default", "profiles", "spread"]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_each_is_good_named_after_its_file_and_serves(path: Path) -> None:
    document = load_policy(path.read_text())
    assert document.policy.name == path.stem
    outcome = Simulation(Scenario(num_requests=300), document.policy, seed=1).run()
    assert outcome.attainment == 1.0


def test_the_default_file_says_the_defaults_and_all_of_them() -> None:
    text = (FOLDER / "default.yaml").read_text()
    policy, default = load_policy(text).policy, Policy("default")
    assert (policy.admission, policy.clustering, policy.dispatch, policy.fairness) == (
        default.admission,
        default.clustering,
        default.dispatch,
        default.fairness,
    )
    assert policy.placement == default.placement
    assert policy.replication == default.replication
    tree = yaml.safe_load(text)
    for section in ("admission", "clustering", "replication", "dispatch", "fairness"):
        assert list(tree[section]) == [field.name for field in fields(getattr(default, section))]


def test_the_default_file_lists_every_plugin() -> None:
    from control_plane.core.placement.registry import FILTERS, PICKERS, SCORERS

    text = (FOLDER / "default.yaml").read_text()
    for name in (*FILTERS, *SCORERS, *PICKERS):
        assert f"#   {name} " in text


def adapter_loads(name: str) -> int:
    """Times that a request came to a worker where no other one had its adapter before, in one run."""
    policy = load_policy((FOLDER / f"{name}.yaml").read_text()).policy
    outcome = Simulation(
        Scenario(num_requests=600, requests_per_s=40.0, num_adapters=64, base_share=0.0), policy, seed=2
    ).run()
    placed = {
        (sight.worker_id, sight.request.adapter.digest)
        for sight in outcome.witness.sights.values()
        if sight.request.adapter is not None
    }
    return len(placed)


def test_consolidate_brings_adapters_to_fewer_workers_than_spread() -> None:
    assert adapter_loads("consolidate") < 0.8 * adapter_loads("spread")
