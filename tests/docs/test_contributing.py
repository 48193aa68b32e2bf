"""What CONTRIBUTING.md shows of adding a scorer, and says of machines without a network, works as it stands there."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from control_plane.core.placement.registry import SCORERS
from control_plane.policy.document import PolicyError, load_policy
from tests.sim.simulation import Scenario, Simulation
from tests.unit.control_core import test_placement_scorers

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILE, REGISTRY_LINE, TEST = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MODULE = "control_plane.core.placement.scorers.few_adapters"
POLICY = "name: shown\nscorers: [{name: few_adapters, weight: 1, adapters: 2}]\n"


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class of the file shown, in its place and in the registry."""
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(FILE, MODULE, "exec"), module.__dict__)
    line = eval("{" + REGISTRY_LINE + "}", dict(module.__dict__))
    for name, plugin in line.items():
        monkeypatch.setitem(SCORERS, name, plugin)
    (plugin,) = line.values()
    assert plugin.__module__ == MODULE
    return plugin


def test_the_table_shown_passes(scorer: type) -> None:
    names = {**vars(test_placement_scorers), "FewAdapters": scorer}
    exec(compile(TEST, "test_few_adapters", "exec"), names)
    (mark,) = names["test_few_adapters"].pytestmark
    assert len(mark.args[1]) >= 3
    for case in mark.args[1]:
        names["test_few_adapters"](*case)


def test_a_policy_may_name_it_and_serves(scorer: type) -> None:
    policy = load_policy(POLICY).policy
    (weighted,) = policy.placement.default.scorers
    assert weighted.scorer == scorer(adapters=2.0)
    assert Simulation(Scenario(num_requests=100), policy, seed=1).run().attainment == 1.0


def test_without_its_line_no_policy_may() -> None:
    with pytest.raises(PolicyError, match="`few_adapters` is not known"):
        load_policy(POLICY)


def test_wheels_for_gpu_machines_are_pinned() -> None:
    names = [line for line in (ROOT / "deploy/wheels/gpu.txt").read_text().splitlines() if not line.startswith("#")]
    pins = (ROOT / "constraints.txt").read_text()
    assert names
    assert [name for name in names if f"\n{name}==" not in pins] == []
