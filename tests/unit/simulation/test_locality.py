"""On zipf traffic, adapters are brought to workers far less often than if placement did not look at them."""

import pytest

from benchmarks.placement import RANDOM, Zipf
from control_plane.core.policy import Policy

ZIPF = Zipf(num_requests=2500, requests_per_s=200.0, num_adapters=150, num_workers=8, pool_tokens=40_000)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_default_policy_loads_adapters_seldom_at_equal_balance(seed: int) -> None:
    by_chance, default = (ZIPF.play(policy, seed) for policy in (RANDOM, Policy("default")))
    assert by_chance.num_finished == default.num_finished == ZIPF.num_requests
    assert default.adapter_loads < 0.3 * by_chance.adapter_loads
    assert default.load_balance > 0.98 * by_chance.load_balance
