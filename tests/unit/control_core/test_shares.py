from dataclasses import replace

import pytest

from control_plane.core.cost import Room
from control_plane.core.policy import FairnessScheme, FairnessSettings
from control_plane.core.shares import TenantShares

# A worker of 10 places and a pool of 1,000 tokens: 50 tokens take a tenth, as a place does, 200 a fifth.
ROOM = Room(places=10, tokens=1000)
SETTINGS = FairnessSettings(max_share=0.5, recent_s=30.0)


def make(settings: FairnessSettings = SETTINGS, *, num_workers: int = 2, seen: tuple[str, ...] = ("a", "b")):
    shares = TenantShares(settings)
    for tenant in seen:
        shares.seen(tenant, 0.0)
    shares.refresh(ROOM, num_workers, 0.0)
    return shares


def test_a_tenant_holds_no_more_than_its_share_beside_others() -> None:
    shares = make()
    shares.take("a", 0.85)
    assert shares.may_take("a", 50)
    assert not shares.may_take("a", 200)
    assert shares.may_take("b", 200)
    shares.take("a", 0.1)
    assert not shares.may_take("a", 50)
    shares.give_back("a", 0.85)
    assert shares.may_take("a", 200)


def test_one_request_is_never_too_many() -> None:
    shares = make(num_workers=1)
    assert shares.may_take("a", 10_000)
    shares.take("a", 10.0)
    assert not shares.may_take("a", 1)
    shares.give_back("a", 10.0)
    assert shares.may_take("a", 10_000)


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        (SETTINGS, ("a",)),
        (replace(SETTINGS, max_share=1.0), ("a", "b")),
        (replace(SETTINGS, scheme=FairnessScheme.ARRIVAL), ("a", "b")),
    ],
)
def test_nothing_bounds_a_tenant_alone_or_where_the_policy_says_so(
    settings: FairnessSettings, seen: tuple[str, ...]
) -> None:
    shares = make(settings, seen=seen)
    shares.take("a", 5.0)
    assert shares.may_take("a", 1000)


def test_a_tenant_that_is_gone_for_long_bounds_nobody() -> None:
    shares = make()
    shares.take("a", 1.0)
    shares.seen("a", 29.0)
    shares.refresh(ROOM, 2, 30.0)
    assert not shares.may_take("a", 50)
    shares.refresh(ROOM, 2, 30.5)
    assert shares.may_take("a", 50)
    shares.seen("b", 31.0)
    shares.seen("a", 32.0)
    assert not shares.may_take("a", 50)
    shares.seen("c", 33.0)
    assert not shares.may_take("a", 50)


def test_the_fleet_is_looked_at_now_and_then() -> None:
    shares = TenantShares(SETTINGS)
    assert shares.is_due(0.0)
    shares.refresh(ROOM, 2, 0.0)
    assert not shares.is_due(0.2)
    assert shares.is_due(0.25)
