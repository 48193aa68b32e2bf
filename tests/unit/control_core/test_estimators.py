import pytest

from control_plane.core.estimators import Ewma, PlaceTime, PrefillRate


def test_ewma() -> None:
    average = Ewma()
    assert average.value is None
    for measured, expected in ((4.0, 4.0), (8.0, 5.0), (5.0, 5.0)):
        average.add(measured, 0.25)
        assert average.value == expected


def test_prefill_rate_counts_busy_time_only() -> None:
    rate = PrefillRate()
    rate.add(0, is_pending=False, now=0.0, weight=0.5)
    rate.add(100, is_pending=True, now=10.0, weight=0.5)
    assert rate.tokens_per_s is None
    rate.add(300, is_pending=True, now=11.0, weight=0.5)
    assert rate.tokens_per_s == 200.0
    rate.add(400, is_pending=True, now=12.0, weight=0.5)
    assert rate.tokens_per_s == 150.0
    rate.add(410, is_pending=False, now=13.0, weight=0.5)
    rate.add(420, is_pending=True, now=99.0, weight=0.5)
    assert rate.tokens_per_s == 150.0


def test_prefill_rate_of_a_worker_that_began_again() -> None:
    rate = PrefillRate()
    rate.add(1000, is_pending=True, now=0.0, weight=0.5)
    rate.add(10, is_pending=True, now=1.0, weight=0.5)
    rate.add(20, is_pending=True, now=1.0, weight=0.5)
    assert rate.tokens_per_s is None


def test_full_workers_free_places_by_littles_law() -> None:
    places = PlaceTime()
    assert places.wait_s(10, 4) == 0.0
    places.add(2.0, 0.1)
    assert places.wait_s(10, 4) == pytest.approx(5.0)
    assert places.wait_s(0, 4) == 0.0
    assert places.wait_s(1, 0) == 0.0
