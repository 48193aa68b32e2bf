from dataclasses import replace

import pytest

from control_plane.core.cost import Room
from control_plane.core.policy import FairnessScheme, FairnessSettings, TenantSettings
from control_plane.core.shares import TenantShares

# A worker of 10 places and a pool of 1,000 tokens: 50 tokens take a tenth, as a place does, 200 a fifth.
ROOM = Room(places=10, tokens=1000)
SETTINGS = FairnessSettings(kept_share=0.25, recent_s=30.0)


def make(settings: FairnessSettings = SETTINGS, *, seen: tuple[str, ...] = ("a", "b")) -> TenantShares:
    shares = TenantShares(settings)
    for tenant in seen:
        shares.seen(tenant, 0.0)
    shares.refresh(ROOM, 2, 0.0)
    return shares


def test_the_last_part_of_the_fleet_is_kept() -> None:
    """Of two workers a half of one is kept."""
    shares = make()
    shares.take("a", 1.0)
    shares.take("b", 0.25)
    assert shares.leaves_room(50)
    assert shares.leaves_room(200)
    shares.take("b", 0.1)
    assert shares.leaves_room(50)
    assert not shares.leaves_room(200)
    shares.give_back("a", 1.0)
    assert shares.leaves_room(1000)


def test_who_wants_most_leaves_room_beyond_its_part() -> None:
    """Two tenants on two workers: each one's part is a worker."""
    shares = make()
    assert shares.greediest({}) is None
    for _ in range(8):
        shares.take("a", 0.1)
        shares.take("b", 0.1)
    # Both may take what they want up to their part.
    assert shares.greediest({"a": 99, "b": 1}) is None
    for _ in range(3):
        shares.take("a", 0.1)
    assert shares.greediest({"a": 99, "b": 1}) == "a"
    assert shares.greediest({"a": 1, "b": 99}) is None
    assert shares.greediest({"b": 1}) is None
    shares.give_back("a", 0.1)
    shares.give_back("a", 0.1)
    assert shares.greediest({"a": 99, "b": 1}) is None


def test_parts_are_by_weights() -> None:
    shares = make(replace(SETTINGS, tenants=(TenantSettings("a", weight=3.0),)))
    for _ in range(13):
        shares.take("a", 0.1)
    assert shares.greediest({"a": 9, "b": 1}) is None
    for _ in range(3):
        shares.take("a", 0.1)
    assert shares.greediest({"a": 9, "b": 1}) == "a"


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
    assert shares.greediest({"a": 100}) is None


def test_no_room_is_left_for_tenants_that_are_gone_for_long() -> None:
    shares = make()
    shares.take("a", 1.5)
    shares.seen("a", 29.0)
    shares.refresh(ROOM, 2, 30.0)
    assert shares.greediest({"a": 9}) == "a"
    shares.refresh(ROOM, 2, 30.5)
    assert shares.greediest({"a": 9}) is None
    shares.seen("b", 31.0)
    shares.seen("a", 32.0)
    shares.seen("c", 33.0)
    assert shares.greediest({"a": 9}) == "a"


def test_the_fleet_is_looked_at_now_and_then() -> None:
    shares = TenantShares(SETTINGS)
    assert shares.is_due(0.0)
    shares.refresh(ROOM, 2, 0.0)
    assert not shares.is_due(0.2)
    assert shares.is_due(0.25)
