import pytest

from control_plane.core.estimators import DrainRate, Ewma, PrefillRate


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


def test_a_queues_drain_is_measured_while_it_never_is_empty() -> None:
    drain = DrainRate()
    drain.observe(0.0, is_empty=False)
    for step in range(1, 9):
        drain.drained(2.0)
        drain.observe(step / 4, is_empty=False)
    assert drain.per_s == pytest.approx(8.0)
    drain.observe(2.1, is_empty=True)
    assert drain.per_s is None
    # It begins anew: what was served as the queue was empty does not count.
    drain.drained(100.0)
    drain.observe(3.0, is_empty=False)
    drain.observe(9.0, is_empty=False)
    assert drain.per_s == 0.0


def test_a_few_requests_are_no_measurement_until_time_has_passed() -> None:
    drain = DrainRate()
    drain.observe(0.0, is_empty=False)
    drain.drained(1.0)
    drain.observe(1.0, is_empty=False)
    assert drain.per_s is None
    drain.observe(5.0, is_empty=False)
    assert drain.per_s == pytest.approx(0.2)
