from dataclasses import replace

import pytest

from control_plane.core.policy import FairnessScheme, FairnessSettings, TenantSettings
from control_plane.core.shares import TenantShares

SETTINGS = FairnessSettings(kept_share=0.25, recent_s=30.0)


def make(settings: FairnessSettings = SETTINGS, *, seen: tuple[str, ...] = ("a", "b")) -> TenantShares:
    """Two workers, of which a half of one is kept."""
    shares = TenantShares(settings)
    for tenant in seen:
        shares.seen(tenant, 0.0)
    shares.refresh(2, 0.0)
    return shares


def test_the_last_part_of_the_fleet_is_kept_from_a_tenant_that_holds_its_part() -> None:
    shares = make()
    shares.take("a", 1.0)
    shares.take("b", 0.4)
    assert shares.leaves_room("a")
    shares.take("b", 0.1)
    assert not shares.leaves_room("a")
    assert shares.leaves_room("b")
    shares.take("b", 0.5)
    assert not shares.leaves_room("b")
    shares.give_back("a", 1.0)
    assert shares.leaves_room("a")


def test_a_place_of_one_is_not_kept() -> None:
    shares = make()
    shares.refresh(1, 0.0)
    assert shares.leaves_room("a")


def test_parts_are_by_weights() -> None:
    shares = make(replace(SETTINGS, tenants=(TenantSettings("a", weight=3.0),)))
    shares.take("a", 1.4)
    shares.take("b", 0.1)
    assert shares.leaves_room("a")
    shares.take("a", 0.1)
    assert not shares.leaves_room("a")


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        (SETTINGS, ("a",)),
        (replace(SETTINGS, kept_share=0.0), ("a", "b")),
        (replace(SETTINGS, scheme=FairnessScheme.ARRIVAL), ("a", "b")),
    ],
)
def test_nobody_leaves_room_alone_or_where_the_policy_says_so(
    settings: FairnessSettings, seen: tuple[str, ...]
) -> None:
    shares = make(settings, seen=seen)
    shares.take("a", 2.0)
    assert shares.leaves_room("a")


def test_no_room_is_left_for_tenants_that_are_gone_for_long() -> None:
    shares = make()
    shares.take("a", 1.5)
    shares.seen("a", 29.0)
    shares.refresh(2, 30.0)
    assert not shares.leaves_room("a")
    shares.refresh(2, 30.5)
    assert shares.leaves_room("a")
    shares.seen("b", 31.0)
    shares.seen("a", 32.0)
    shares.seen("c", 33.0)
    assert not shares.leaves_room("a")


def test_the_fleet_is_looked_at_now_and_then() -> None:
    shares = TenantShares(SETTINGS)
    assert shares.is_due(0.0)
    shares.refresh(2, 0.0)
    assert not shares.is_due(0.2)
    assert shares.is_due(0.25)
