"""Where every worker runs as many adapters as it may, requests of these go on, whatever waits before them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.core.clustering import Clustering
from control_plane.core.fairness import ArrivalOrder
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.ledger import RequestState, TrackedRequest
from control_plane.core.policy import ClusteringSettings, FairnessSettings
from control_plane.core.queue import WaitingQueue
from control_plane.core.shares import TenantShares
from tests.unit.control_core.makers import busy, request, worker

NAMES = st.sampled_from(["a", "b", "c", "d", "e", None])


def made(running: list[list[str | None]], waiting: list[str | None]) -> tuple[Clustering, WaitingQueue, Fleet]:
    fleet, settings = Fleet(), FairnessSettings()
    queue = WaitingQueue(ArrivalOrder(settings), TenantShares(settings), newest_first=False)
    for index, names in enumerate(running):
        busy(worker(f"w{index}", window=4, fleet=fleet), *names)
    for number, name in enumerate(waiting):
        queue.add(TrackedRequest(request(f"r{number}", name), number, 0.0, float("inf")))
    return Clustering(ClusteringSettings(max_adapters_per_worker=1, max_run=1), queue), queue, fleet


@given(st.lists(st.lists(NAMES, max_size=4), max_size=4), st.lists(NAMES, max_size=6))
def test_the_next_is_the_first_that_some_worker_has_room_for(
    running: list[list[str | None]], waiting: list[str | None]
) -> None:
    clustering, _, fleet = made(running, waiting)
    room = [each for each in fleet if len(each.in_flight) < each.window]

    def workers_of(name: str | None) -> set[str]:
        digest = f"sha256:{name}"
        return {each.worker_id for each in room if name is None or each.has_adapter(digest) or not each.num_adapters}

    able = [(index, workers_of(name)) for index, name in enumerate(waiting) if workers_of(name)]
    candidate = clustering.next(fleet, 0.0)
    if candidate is None:
        assert not able
        return
    first, workers = able[0]
    assert candidate.tracked.request_id == f"r{first}"
    assert {each.worker_id for each in fleet if candidate.among[each.row]} == workers


def test_what_runs_is_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    clustering, _, fleet = made([["a"], ["b"]], ["x", "b", "y"])

    def refuse(*args: object) -> None:
        raise AssertionError("a large fleet runs far more than waits")

    monkeypatch.setattr(Worker, "adapters", property(refuse))
    candidate = clustering.next(fleet, 0.0)
    assert candidate is not None
    assert candidate.tracked.request_id == "r1"


@given(st.lists(st.lists(NAMES, max_size=4), max_size=4), st.lists(NAMES, max_size=6))
def test_age_is_no_reason_to_exceed_the_bound(running: list[list[str | None]], waiting: list[str | None]) -> None:
    clustering, queue, fleet = made(running, waiting)
    while (candidate := clustering.next(fleet, 100.0)) is not None:
        taken_by = fleet.at(int(candidate.among.argmax()))
        name = candidate.tracked.digest
        assert name is None or taken_by.has_adapter(name) or not taken_by.num_adapters
        queue.remove(candidate.tracked)
        candidate.tracked.state = RequestState.DISPATCHED
        taken_by.take(candidate.tracked)


@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_an_old_request_is_not_overtaken_for_ever(chance: Random, num_workers: int) -> None:
    """Every worker is at its bound, and requests of the adapters in use keep coming; each ends after a few others."""
    names = [f"w{index}" for index in range(num_workers)]
    clustering, queue, fleet = made([[name] for name in names], [])
    running = [(each, tracked) for each in fleet for tracked in each.in_flight.values()]
    old = TrackedRequest(request("old", "x"), 100, 0.0, float("inf"))
    queue.add(old)
    for number in range(101, 201):
        tracked = TrackedRequest(request(f"r{number}", chance.choice(names)), number, 10.0, float("inf"))
        queue.add(tracked)
        while (candidate := clustering.next(fleet, 10.0)) is not None:
            taken_by = fleet.at(chance.choice([int(row) for row in candidate.among.nonzero()[0]]))
            queue.remove(candidate.tracked)
            candidate.tracked.state = RequestState.DISPATCHED
            taken_by.take(candidate.tracked)
            running.append((taken_by, candidate.tracked))
        if old.state is RequestState.DISPATCHED:
            return
        # Of the oldest four, so that none runs for ever.
        worker_of, ended = running.pop(chance.randrange(min(4, len(running))))
        worker_of.release(ended)
    raise AssertionError("a hundred requests overtook one that was old")


def test_a_parked_request_keeps_its_right() -> None:
    """Its turn came, and the worker below its bound refused it: on the other one the adapter in use ends even so."""
    clustering, queue, fleet = made([["a"], []], ["x"])
    old = queue.head()
    candidate = clustering.next(fleet, 10.0)
    assert candidate is not None
    assert candidate.tracked is old
    queue.park(candidate.tracked)
    queue.add(TrackedRequest(request("r1", "a"), 1, 9.5, float("inf")))
    candidate = clustering.next(fleet, 10.0)
    assert candidate is not None
    assert [each.worker_id for each in fleet if candidate.among[each.row]] == ["w1"]
