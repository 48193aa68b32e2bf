import pytest

from control_plane.core.fleet import Fleet
from control_plane.core.types import ResidencyTier, WorkerStatus
from tests.unit.control_core.makers import adapter, status, tracked, worker

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
    assert (made.num_free_places, made.load) == (0, 1.0)


def test_open_and_accepting_workers() -> None:
    fleet = Fleet()
    fleet.note_time(1.0)
    assert fleet.unable_since == 1.0
    fleet.report(status("a", window=1), 2.0, 0.1)
    fleet.report(status("b", window=0), 2.0, 0.1)
    assert fleet.unable_since is None
    assert [each.worker_id for each in fleet.open_workers] == ["a"]
    only = fleet.get("a")
    assert only is not None
    only.take(tracked(1))
    assert not fleet.has_open_worker
    assert [each.worker_id for each in fleet.accepting_workers] == ["a"]
    fleet.set_lease("a", is_live=False, now=3.0)
    assert fleet.unable_since == 3.0
    fleet.set_lease("a", is_live=True, now=4.0)
    fleet.set_lease("stranger", is_live=False, now=4.0)
    assert fleet.unable_since is None
    assert fleet.remove("a", 5.0) is only
    assert fleet.remove("a", 6.0) is None
    assert fleet.unable_since == 5.0
