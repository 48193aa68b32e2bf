import numpy as np
import pytest

from control_plane.core.fleet import Fleet
from control_plane.core.types import ResidencyTier, WorkerStatus
from tests.unit.control_core.makers import adapter, busy, status, tracked, worker

HOST, POOL, NONE = ResidencyTier.HOST, ResidencyTier.POOL, ResidencyTier.NONE


def delta(**tiers: ResidencyTier) -> WorkerStatus:
    return WorkerStatus("w", "base", 4, residency=tuple((f"sha256:{name}", tier) for name, tier in tiers.items()))


def test_residency_is_merged_from_changes_and_replaced_by_snapshots() -> None:
    made = worker(residency={"a": POOL})
    made.merge(delta(b=HOST, a=HOST), 1.0, 0.1)
    assert made.residency == {"sha256:a": HOST, "sha256:b": HOST}
    made.merge(delta(a=NONE), 2.0, 0.1)
    assert made.residency == {"sha256:b": HOST}
    made.merge(status(residency={"c": POOL}), 3.0, 0.1)
    assert made.residency == {"sha256:c": POOL}


def test_an_adapter_in_use_counts_as_resident_until_its_last_request_ends() -> None:
    made = worker()
    first, second = tracked(1, "a"), tracked(2, "a")
    made.take(first)
    made.take(second)
    made.release(first)
    assert (made.tier("sha256:a"), made.num_adapters) == (POOL, 1)
    made.release(second)
    assert (made.tier("sha256:a"), made.num_adapters, made.mean_log2_rank) == (NONE, 0, None)


def test_hints_are_remembered_up_to_a_bound_and_until_they_are_answered() -> None:
    made = worker(residency={"there": HOST})
    assert not made.hint(adapter("there"), 2)
    assert made.hint(adapter("a"), 2)
    assert not made.hint(adapter("a"), 2)
    assert made.tier("sha256:a") is HOST
    made.merge(delta(a=NONE), 1.0, 0.1)
    assert made.tier("sha256:a") is NONE
    assert [made.hint(adapter(name), 2) for name in "abc"] == [True] * 3
    assert [made.tier(f"sha256:{name}") for name in "abc"] == [NONE, HOST, HOST]


def test_prompt_tokens_are_counted_until_the_first_token() -> None:
    made = worker()
    one, two = tracked(1), tracked(2)
    made.take(one)
    two.output_token_ids += [7, 8]
    made.take(two)
    assert made.pending_prefill_tokens == 4 + 6
    made.prefilled(two)
    two.output_token_ids.append(9)
    made.prefilled(two)
    assert made.pending_prefill_tokens == 4
    made.release(one)
    made.release(two)
    assert made.pending_prefill_tokens == 0


def test_the_window_is_never_exceeded_and_may_shrink() -> None:
    made = worker(window=2)
    made.take(tracked(1))
    made.take(tracked(2))
    with pytest.raises(AssertionError, match="window of w exceeded"):
        made.take(tracked(3))
    made.merge(status(window=1), 1.0, 0.1)
    assert (made.has_room, made.load) == (False, 1.0)


def test_open_and_accepting_workers() -> None:
    fleet = Fleet()
    fleet.note_time(1.0)
    assert fleet.unable_since == 1.0
    fleet.report(status("a", window=1), 2.0, 0.1)
    fleet.report(status("b", window=0), 2.0, 0.1)
    assert fleet.unable_since is None
    assert (fleet.has_open_worker, fleet.num_accepting) == (True, 1)
    only = fleet.get("a")
    assert only is not None
    only.take(tracked(1))
    assert (fleet.has_open_worker, fleet.num_accepting) == (False, 1)
    fleet.set_lease("a", is_live=False, now=3.0)
    assert fleet.unable_since == 3.0
    fleet.set_lease("a", is_live=True, now=4.0)
    fleet.set_lease("stranger", is_live=False, now=4.0)
    assert fleet.unable_since is None
    assert fleet.remove("a", 5.0) is only
    assert fleet.remove("a", 6.0) is None
    assert fleet.unable_since == 5.0


def test_a_draining_worker_takes_nothing_even_when_it_comes_back() -> None:
    fleet = Fleet()
    fleet.set_drain("a", is_draining=True, now=0.0)
    fleet.report(status("a"), 1.0, 0.1)
    assert not fleet.has_open_worker
    assert fleet.unable_since == 0.0
    fleet.remove("a", 2.0)
    fleet.report(status("a"), 3.0, 0.1)
    assert not fleet.has_open_worker
    fleet.set_drain("a", is_draining=False, now=4.0)
    assert fleet.has_open_worker


def test_marks_of_workers_that_are_away_are_bounded() -> None:
    fleet = Fleet()
    fleet.report(status("here"), 0.0, 0.1)
    fleet.set_drain("here", is_draining=True, now=0.0)
    for index in range(10_001):
        fleet.set_drain(f"away-{index}", is_draining=True, now=0.0)
    assert len(fleet._draining) == 10_000
    assert "here" in fleet._draining
    assert "away-0" not in fleet._draining


def test_rows_are_given_back_and_the_columns_grow() -> None:
    fleet = Fleet()
    for index in range(40):
        fleet.report(status(f"w{index:02}", window=index, residency={"a": POOL, "b": HOST}), 0.0, 0.1)
    columns = fleet.columns
    assert columns.num_rows == 64
    assert np.count_nonzero(columns.tiers("sha256:a")) == 40
    assert columns.window[columns.order].tolist() == list(range(40))
    for index in range(39):
        fleet.remove(f"w{index:02}", 1.0)
    assert [columns.worker_id(row) for row in columns.order.tolist()] == ["w39"]
    assert (np.count_nonzero(columns.tiers("sha256:a")), np.count_nonzero(columns.tiers("sha256:b"))) == (1, 1)
    assert int(columns.has_room.sum()) == 1
    for index in range(63):
        fleet.report(status(f"x{index:02}"), 2.0, 0.1)
    assert columns.num_rows == 64


def test_a_worker_that_is_gone_leaves_nothing_behind() -> None:
    fleet = Fleet()
    made = worker(residency={"a": POOL}, fleet=fleet)
    requests = [tracked(1, "a"), tracked(2, "b")]
    for each in requests:
        made.take(each)
    made.hint(adapter("c"), 4)
    assert fleet.remove("w", 1.0) is made
    for each in requests:
        made.release(each)
    columns = fleet.columns
    assert not columns.has_room.any()
    assert not columns.num_in_flight.any()
    assert [np.count_nonzero(columns.tiers(f"sha256:{name}")) for name in "abc"] == [0, 0, 0]
    assert not columns.using("sha256:a").any()


def test_a_worker_that_reports_nonsense_gets_nothing() -> None:
    fleet = Fleet()
    fleet.report(status(window=-5, total_pages=-1, kv_pages=7, page_size_bytes=-3, num_running=-9), 0.0, 0.1)
    assert not fleet.has_open_worker
    assert fleet.unable_since == 0.0


def test_a_pool_is_promised_to_the_ends_of_requests_and_to_their_adapters() -> None:
    """16 pages of 100 bytes for 4 tokens: 64 tokens, or 1,600 bytes. A request ends with 4 + 10 tokens, 350 bytes."""
    fleet = Fleet(max_promised=1.0)
    made = worker(fleet=fleet, window=9, total_pages=16, page_size_bytes=100, block_size=4)
    busy(made, None, None)
    assert made.promised == pytest.approx(2 * 350 / 1600)
    first, second = (tracked(number, "a") for number in (7, 8))
    assert made.take(first) == pytest.approx((350 + 1000) / 1600)
    assert not made.has_room
    assert not fleet.columns.has_room[made.row]
    # The adapter is there already: the second takes its tokens, but no less than a place.
    assert made.take(second) == pytest.approx(350 / 1600)
    made.release(first)
    assert made.promised == pytest.approx((3 * 350 + 1000) / 1600)
    made.release(second)
    assert made.promised == pytest.approx(2 * 350 / 1600)
    assert made.has_room
    fleet.set_max_promised(0.4)
    assert not fleet.columns.has_room[made.row]
    fleet.set_max_promised(0.0)
    assert fleet.columns.has_room[made.row]


def test_a_pool_that_nobody_told_of_bounds_nothing() -> None:
    made = busy(worker(fleet=Fleet(max_promised=0.1), total_pages=0), None)
    assert made.promised == 0.0
    assert made.has_room
