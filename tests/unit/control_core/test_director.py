import itertools
import random
from dataclasses import replace

import pytest

from control_plane.core import director as director_module
from control_plane.core.director import Director
from control_plane.core.errors import SloUnreachable
from control_plane.core.policy import AdmissionMode, AdmissionSettings, DispatchSettings, FairnessSettings, Policy
from control_plane.core.types import (
    Accepted,
    BatchAcked,
    Effect,
    Emitted,
    Failed,
    Finished,
    FinishReason,
    PolicyChanged,
    Request,
    RequestArrived,
    RequestCancelled,
    SendBatch,
    SequenceOutput,
    Tick,
    TokensProduced,
    WorkerFailure,
    WorkerLost,
    WorkerReported,
)
from tests.unit.control_core.makers import request, status


def make(policy: Policy | None = None, **windows: int) -> Director:
    made = Director(policy or Policy("test"), random.Random(0))
    for worker_id, window in windows.items():
        made.on_event(WorkerReported(status(worker_id, window=window)), 0.0)
    return made


def sent(effects: list[Effect]) -> list[list[str]]:
    return [
        [each.request.request_id for each in effect.requests] for effect in effects if isinstance(effect, SendBatch)
    ]


def tokens(request_id: str, *ids: int, end: FinishReason | None = None) -> TokensProduced:
    return TokensProduced("w", (SequenceOutput(request_id, ids, "x" * len(ids), finish_reason=end),))


def test_usage_and_timings() -> None:
    made = make()
    made.on_event(RequestArrived(request("r", num_prompt_tokens=7)), 1.0)
    made.on_event(WorkerReported(status("w")), 1.5)
    made.on_event(tokens("r", 1), 2.0)
    emitted, finished = made.on_event(tokens("r", 2, 3, end=FinishReason.STOP), 4.0)
    assert isinstance(emitted, Emitted)
    assert isinstance(finished, Finished)
    assert (finished.usage.num_prompt_tokens, finished.usage.num_output_tokens) == (7, 3)
    timings = finished.timings
    assert (timings.dispatched_s, timings.first_token_s, timings.finished_s) == (0.5, 1.0, 3.0)


def test_a_last_output_without_tokens_is_not_emitted_but_its_text_is() -> None:
    made = make(w=2)
    made.on_event(RequestArrived(request("r")), 0.0)
    effects = made.on_event(tokens("r", end=FinishReason.STOP), 1.0)
    assert [type(each) for each in effects] == [Finished]
    made.on_event(RequestArrived(request("r")), 2.0)
    output = SequenceOutput("r", (), "the rest", finish_reason=FinishReason.STOP)
    assert made.on_event(TokensProduced("w", (output,)), 3.0)[0] == Emitted(output)


def test_a_request_whose_output_is_complete_is_not_sent_again() -> None:
    made = make(w=1)
    made.on_event(RequestArrived(request("r", max_tokens=2)), 0.0)
    made.on_event(tokens("r", 1, 2), 1.0)
    (finished,) = made.on_event(WorkerLost("w"), 2.0)
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.LENGTH


def test_losses_are_bounded() -> None:
    made = make(Policy("test", dispatch=DispatchSettings(max_attempts=2)))
    made.on_event(RequestArrived(request("r")), 0.0)
    for now in (1.0, 2.0):
        assert sent(made.on_event(WorkerReported(status("w")), now)) == [["r"]]
        effects = made.on_event(WorkerLost("w"), now + 0.5)
    (failed,) = effects
    assert isinstance(failed, Failed)
    assert failed.error.reason == "ATTEMPTS_EXHAUSTED"
    assert made.snapshot().num_queued == 0


def test_long_batches_are_split() -> None:
    made = make(Policy("test", dispatch=DispatchSettings(max_batch_tokens=100)))
    for index in range(7):
        made.on_event(RequestArrived(request(f"r{index}", num_prompt_tokens=150 if index == 5 else 40)), 0.0)
    batches = sent(made.on_event(WorkerReported(status("w", window=9)), 1.0))
    assert batches == [["r0", "r1"], ["r2", "r3"], ["r4"], ["r5"], ["r6"]]


def test_tokens_do_not_look_at_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(w=1)
    for index in range(100):
        made.on_event(RequestArrived(request(f"r{index}", max_tokens=1000)), 0.0)
    made.on_event(BatchAcked("w", accepted_request_ids=("r0",)), 0.0)

    def refuse(*args: object) -> None:
        raise AssertionError("the queue was looked at")

    monkeypatch.setattr(director_module.Clustering, "next", refuse)
    monkeypatch.setattr(director_module.WaitingQueue, "head", refuse)
    monkeypatch.setattr(director_module.WaitingQueue, "first", refuse)
    for now in range(50):
        assert len(made.on_event(tokens("r0", now), float(now))) == 1


def test_a_new_policy_reorders_what_waits() -> None:
    made = make(Policy("old", admission=AdmissionSettings(mode=AdmissionMode.FCFS)), w=1)
    for index in range(4):
        made.on_event(RequestArrived(request(f"r{index}")), float(index))
    newest_first = Policy("new", admission=AdmissionSettings(mode=AdmissionMode.LCFS))
    assert made.on_event(PolicyChanged(newest_first), 5.0) == []
    assert made.policy is newest_first
    assert sent(made.on_event(tokens("r0", end=FinishReason.STOP), 6.0)) == [["r3"]]


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(AdmissionMode, 2)))
def test_what_waited_under_another_mode_is_served_in_the_order_of_the_new_one(
    before: AdmissionMode, after: AdmissionMode
) -> None:
    made = make(Policy("old", admission=AdmissionSettings(mode=before)), w=1)
    made.on_event(RequestArrived(request("r0")), 100.0)
    for index in (1, 2, 3):
        made.on_event(RequestArrived(request(f"r{index}", max_tokens=1000 if index == 1 else 10)), 100.0 + index)
    made.on_event(PolicyChanged(Policy("new", admission=AdmissionSettings(mode=after))), 104.0)
    for index in (4, 5):
        made.on_event(RequestArrived(request(f"r{index}")), 100.0 + index)
    order = ["r0"]
    while len(order) < 6:
        ((following,),) = sent(made.on_event(tokens(order[-1], end=FinishReason.STOP), 200.0 + len(order)))
        order.append(following)
    if after is AdmissionMode.PAPER_ABORT:
        # The newest or the oldest of those that are left, as the rule decides.
        left = ["r1", "r2", "r3", "r4", "r5"]
        for request_id in order[1:]:
            assert request_id in (left[0], left[-1])
            left.remove(request_id)
        return
    assert (
        order[1:]
        == {
            AdmissionMode.FCFS: ["r1", "r2", "r3", "r4", "r5"],
            AdmissionMode.LCFS: ["r5", "r4", "r3", "r2", "r1"],
            # The one that costs most is overtaken by those that arrive a little later.
            AdmissionMode.EARLY_ABORT: ["r2", "r3", "r4", "r5", "r1"],
        }[after]
    )


def test_deadlines_are_watched_from_when_the_policy_asks_for_it() -> None:
    made = make(Policy("old", admission=AdmissionSettings(mode=AdmissionMode.FCFS)), w=1)
    made.on_event(RequestArrived(request("r0")), 0.0)
    made.on_event(RequestArrived(request("r1", deadline_s=1.0)), 0.0)
    assert made.on_event(Tick(), 2.0) == []
    (failed,) = made.on_event(PolicyChanged(Policy("new")), 3.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, SloUnreachable)


def test_the_policys_deadline_is_for_requests_that_name_none() -> None:
    made = make(Policy("test", admission=AdmissionSettings(default_first_token_deadline_s=1.0)), w=1)
    made.on_event(RequestArrived(request("first", deadline_s=float("inf"))), 0.0)
    made.on_event(RequestArrived(request("default")), 0.0)
    made.on_event(RequestArrived(request("own", deadline_s=3.0)), 0.0)
    made.on_event(RequestArrived(request("none", deadline_s=float("inf"))), 0.0)
    assert [effect.request_id for effect in made.on_event(Tick(), 1.1)] == ["default"]
    assert [effect.request_id for effect in made.on_event(Tick(), 3.1)] == ["own"]
    assert made.on_event(Tick(), 1e6) == []


def test_a_request_that_had_its_first_token_is_never_too_late() -> None:
    made = make(w=1)
    made.on_event(RequestArrived(request("r", deadline_s=1.0)), 0.0)
    made.on_event(tokens("r", 1), 0.5)
    made.on_event(WorkerLost("w"), 0.6)
    assert made.on_event(Tick(), 9.0) == []
    assert sent(made.on_event(WorkerReported(status("w")), 9.5)) == [["r"]]


def test_a_request_goes_back_to_the_queue_with_its_deadline() -> None:
    made = make(w=1)
    made.on_event(RequestArrived(request("r", deadline_s=1.0)), 0.0)
    made.on_event(Tick(), 1.5)
    (failed,) = made.on_event(WorkerLost("w"), 2.0)
    assert isinstance(failed, Failed)
    assert failed.error.reason == "SLO_UNREACHABLE"


def test_an_idle_worker_takes_what_looks_hopeless() -> None:
    made = make(w=1)
    report = status("w", window=1)
    for now, count in ((0.0, 0), (1.0, 1), (2.0, 2)):
        made.on_event(WorkerReported(replace(report, num_prefill_tokens=count, pending_prefill_tokens=1)), now)
    effects = made.on_event(RequestArrived(request("r", num_prompt_tokens=1000, deadline_s=1.0)), 3.0)
    assert effects[0] == Accepted("r")
    (failed,) = made.on_event(RequestArrived(request("s", num_prompt_tokens=1000, deadline_s=1.0)), 3.0)
    assert isinstance(failed, Failed)
    assert failed.error.reason == "SLO_UNREACHABLE"


def test_a_tenant_that_floods_leaves_room_for_the_others() -> None:
    """Its part is a half, and a half is kept beyond that."""
    policy = Policy("test", fairness=FairnessSettings(kept_share=0.5, recent_s=30.0))
    made = make(policy, w=4)
    made.on_event(RequestArrived(request("polite", tenant="polite")), 1.0)
    made.on_event(tokens("polite", 1, end=FinishReason.STOP), 2.0)
    effects = [made.on_event(RequestArrived(request(f"r{index}", tenant="flood")), 3.0) for index in range(4)]
    assert [sent(each) for each in effects] == [[["r0"]], [["r1"]], [], []]
    # Those that lost their worker have a right to a place.
    made.on_event(WorkerLost("w"), 5.0)
    assert sent(made.on_event(WorkerReported(status("w", window=4)), 6.0)) == [["r0", "r1"]]
    # The other finds room at once.
    assert sent(made.on_event(RequestArrived(request("again", tenant="polite")), 7.0))[-1][-1] == "again"
    made.on_event(tokens("again", 1, end=FinishReason.STOP), 8.0)
    assert sent(made.on_event(Tick(), 37.0)) == []
    # The other's last request is long ago.
    assert sent(made.on_event(Tick(), 38.0)) == [["r3"]]


def test_a_pool_that_is_promised_gets_no_more_until_a_request_ends() -> None:
    """A pool of 4 pages of 16 tokens: 64, and each request ends with 14."""
    policy = Policy("test", dispatch=DispatchSettings(max_promised=0.5))
    made = Director(policy, random.Random(0))
    made.on_event(WorkerReported(status("w", window=99, total_pages=4, block_size=16)), 0.0)
    effects = [made.on_event(RequestArrived(request(f"r{index}")), 1.0) for index in range(5)]
    assert [sent(each) for each in effects] == [[["r0"]], [["r1"]], [["r2"]], [], []]
    assert sent(made.on_event(tokens("r0", 1, end=FinishReason.STOP), 2.0)) == [["r3"]]
    assert sent(made.on_event(PolicyChanged(Policy("windows alone", dispatch=DispatchSettings(max_promised=0.0))), 3.0))


def test_a_used_up_quota_asks_to_wait_no_longer_than_the_policy_allows() -> None:
    fairness = FairnessSettings(default_tokens_per_s=0.001, quota_burst_s=10.0)
    director = make(Policy("p", admission=AdmissionSettings(max_retry_delay_s=20.0), fairness=fairness), a=1)
    director.on_event(RequestArrived(request("r0")), 0.0)
    (failed,) = director.on_event(RequestArrived(request("r1")), 0.0)
    assert isinstance(failed, Failed)
    assert (failed.error.reason, failed.error.retry_after_s) == ("QUOTA_EXCEEDED", 20.0)


def test_explain_changes_nothing() -> None:
    made = make(w=1, v=1)
    before = made.snapshot()
    explanation = made.explain(request("r"), random.Random(0), 0.0)
    assert (explanation.worker_id, len(explanation.verdicts)) == ("v", 2)
    assert made.snapshot() == before


def test_snapshot() -> None:
    made = make(b=1, a=1)
    for index in range(3):
        made.on_event(RequestArrived(request(f"r{index}")), 0.0)
    shown = made.snapshot()
    assert (shown.num_queued, shown.num_dispatched, shown.num_parked) == (1, 2, 0)
    assert [(each.status.worker_id, each.num_in_flight) for each in shown.workers] == [("a", 1), ("b", 1)]


def test_costs_are_learned_from_what_ran_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[tuple[str, int, int, float]] = []

    def learn(
        self: object, of: Request, num_output: int, *, num_resumed_tokens: int, held_s: float, weight: float
    ) -> None:
        learned.append((of.request_id, num_output, num_resumed_tokens, held_s))

    monkeypatch.setattr("control_plane.core.cost.ServiceCost.finished", learn)
    made = make(w=9)
    for name in ("cancelled", "refused", "stopped", "retried"):
        made.on_event(RequestArrived(request(name)), 0.0)
        made.on_event(tokens(name, 1, 2, 3), 1.0)
    made.on_event(RequestCancelled("cancelled"), 2.0)
    made.on_event(tokens("cancelled", end=FinishReason.CANCELLED), 3.0)
    made.on_event(tokens("stopped", end=FinishReason.CANCELLED), 3.0)
    refusal = WorkerFailure("refused", code=3, reason="BAD", message="no", retryable=False)
    made.on_event(TokensProduced("w", failures=(refusal,)), 3.0)
    made.on_event(WorkerLost("w"), 4.0)
    assert learned == []
    made.on_event(WorkerReported(status("w", window=9)), 6.0)
    made.on_event(tokens("retried", 4, 5, end=FinishReason.STOP), 7.5)
    assert learned == [("retried", 5, 3, 1.5)]


def test_deadlines_of_ended_requests_are_let_go() -> None:
    made = make(w=1)
    for index in range(3000):
        made.on_event(RequestArrived(request(f"r{index}", deadline_s=80_000.0)), 0.0)
        made.on_event(tokens(f"r{index}", 1, end=FinishReason.STOP), 0.0)
    made.on_event(Tick(), 1.0)
    assert len(made._admission._deadlines) <= 1024


def test_a_clock_that_goes_back_stands_still_and_one_that_jumps_ends_what_waited() -> None:
    made = make(w=1)
    made.on_event(RequestArrived(request("r0")), 100.0)
    made.on_event(RequestArrived(request("r1")), 50.0)
    assert sent(made.on_event(tokens("r0", 1, end=FinishReason.STOP), 40.0)) == [["r1"]]
    made.on_event(RequestArrived(request("r2", deadline_s=5.0)), 30.0)
    assert made.on_event(Tick(), 20.0) == []
    (failed,) = made.on_event(Tick(), 1e9)
    assert isinstance(failed, Failed)
    assert failed.error.reason == "SLO_UNREACHABLE"
    _, finished = made.on_event(tokens("r1", 1, end=FinishReason.STOP), 0.0)
    assert isinstance(finished, Finished)
    assert (finished.timings.dispatched_s, finished.timings.finished_s) == (0.0, 1e9 - 100.0)
