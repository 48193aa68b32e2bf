import pytest

from control_plane.core.cost import Room
from control_plane.core.fleet import Fleet
from control_plane.core.outlook import Outlook
from tests.unit.control_core.makers import worker


def test_room_is_the_mean_of_the_workers_that_told_of_their_pools() -> None:
    fleet = Fleet()
    worker("small", fleet=fleet, window=4, total_pages=100, page_size_bytes=1600, block_size=16)
    worker("large", fleet=fleet, window=8, total_pages=300, page_size_bytes=800, block_size=16)
    worker("silent", fleet=fleet, window=6, total_pages=0)
    worker("out of service", fleet=fleet, window=0, total_pages=10_000)
    assert Outlook(fleet.columns).room == Room(places=6.0, tokens=3200.0, token_bytes=75.0)


def test_room_where_pages_are_told_of_and_not_their_size() -> None:
    fleet = Fleet()
    worker(fleet=fleet, window=4, total_pages=100, page_size_bytes=0, block_size=16)
    assert Outlook(fleet.columns).room == Room(places=4.0, tokens=1600.0, token_bytes=0.0)


@pytest.mark.parametrize("window", [0, 4])
def test_room_of_workers_that_have_told_nothing(window: int) -> None:
    fleet = Fleet()
    worker(fleet=fleet, window=window, total_pages=0)
    assert Outlook(fleet.columns).room == Room(places=window)
