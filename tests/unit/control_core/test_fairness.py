import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control_plane.core.fairness import VirtualTokenCounters
from control_plane.core.policy import FairnessSettings, TenantSettings
from control_plane.core.queue import WaitingQueue
from control_plane.core.shares import TenantShares
from control_plane.core.types import TenantAmount
from tests.unit.control_core.makers import tracked

TENANTS = ("a", "b", "c")
MAX_PROMPT, MAX_OUTPUT, MAX_RUNNING = 50, 40, 4


class VtcMachine(RuleBasedStateMachine):
    """A server of a few places: whoever comes and goes, backlogged tenants get the same, within the theorem's bound."""

    @initialize(weight=st.sampled_from([1.0, 2.0, 0.5]))
    def make(self, weight: float) -> None:
        self.weights = {"a": weight, "b": 1.0, "c": 1.0}
        self.fairness = VirtualTokenCounters(FairnessSettings(tenants=(TenantSettings("a", weight=weight),)))
        self.waiting = dict.fromkeys(TENANTS, 0)
        self.running: list[tuple[str, int]] = []
        # What each tenant got since it is backlogged with each other one.
        self.served = {(one, other): [0.0, 0.0] for one in TENANTS for other in TENANTS if one < other}

    def got(self, tenant: str, *, prompt: int = 0, output: int = 0) -> None:
        self.fairness.charge(tenant, num_prompt_tokens=prompt, num_output_tokens=output)
        for pair, amounts in self.served.items():
            if tenant in pair:
                amounts[pair.index(tenant)] += (prompt + 2 * output) / self.weights[tenant]

    @rule(tenant=st.sampled_from(TENANTS), count=st.integers(1, 20))
    def arrive(self, tenant: str, count: int) -> None:
        if not self.waiting[tenant]:
            self.fairness.joined(tenant, [other for other in TENANTS if self.waiting[other]])
        self.waiting[tenant] += count

    @rule(prompt=st.integers(1, MAX_PROMPT), output=st.integers(1, MAX_OUTPUT))
    def serve(self, prompt: int, output: int) -> None:
        heads = {tenant: (1, 0, 0.0, index) for index, tenant in enumerate(TENANTS) if self.waiting[tenant]}
        if not heads or len(self.running) >= MAX_RUNNING:
            return
        tenant = self.fairness.next_tenant(heads)
        assert self.fairness.counter(tenant) == min(self.fairness.counter(other) for other in heads)
        self.waiting[tenant] -= 1
        if not self.waiting[tenant]:
            self.fairness.left(tenant)
        self.running.append((tenant, output))
        self.got(tenant, prompt=prompt)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def produce(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.running) - 1))
        tenant, left = self.running[index]
        count = data.draw(st.integers(1, left))
        self.got(tenant, output=count)
        if count == left:
            del self.running[index]
        else:
            self.running[index] = (tenant, left - count)

    @invariant()
    def backlogged_tenants_get_the_same(self) -> None:
        for pair, amounts in self.served.items():
            if not all(self.waiting[tenant] for tenant in pair):
                amounts[:] = [0.0, 0.0]
            bound = 2 * max(MAX_PROMPT, 2 * MAX_OUTPUT * MAX_RUNNING) / min(self.weights[tenant] for tenant in pair)
            assert abs(amounts[0] - amounts[1]) <= bound


TestVtc = VtcMachine.TestCase
TestVtc.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


def counters(**settings: object) -> VirtualTokenCounters:
    return VirtualTokenCounters(FairnessSettings(**settings))


def test_a_pause_saves_up_no_right() -> None:
    fairness = counters()
    fairness.joined("busy", [])
    fairness.charge("busy", num_prompt_tokens=100, num_output_tokens=50)
    fairness.joined("late", ["busy"])
    assert fairness.counter("late") == fairness.counter("busy") == 200.0
    # Nobody waits: the next begins where the last one was.
    fairness.left("busy")
    fairness.charge("late", num_prompt_tokens=10, num_output_tokens=0)
    fairness.left("late")
    fairness.joined("new", [])
    assert fairness.counter("new") == 210.0


def test_a_lift_never_lowers() -> None:
    fairness = counters()
    fairness.joined("a", [])
    fairness.charge("a", num_prompt_tokens=100, num_output_tokens=0)
    fairness.left("a")
    fairness.joined("b", [])
    fairness.joined("a", ["b"])
    assert fairness.counter("a") == 100.0


def test_a_request_that_lost_its_place_saves_up_no_right() -> None:
    fairness = counters()
    queue = WaitingQueue(fairness, TenantShares(FairnessSettings()), newest_first=False)
    lost = tracked(0, tenant="idle")
    queue.add(lost)
    queue.remove(lost)
    queue.add(tracked(1, tenant="busy"))
    fairness.charge("busy", num_prompt_tokens=100, num_output_tokens=50)
    lost.is_requeued = True
    queue.add(lost)
    assert fairness.counter("idle") == fairness.counter("busy") == 200.0


def test_a_request_that_lost_its_place_goes_before_every_tenants() -> None:
    fairness = counters()
    queue = WaitingQueue(fairness, TenantShares(FairnessSettings()), newest_first=False)
    fairness.charge("much", num_prompt_tokens=1000, num_output_tokens=0)
    lost = tracked(2, "a", tenant="much")
    lost.is_requeued = True
    for each in (tracked(0, "a", tenant="less"), tracked(1, tenant="much"), lost):
        queue.add(each)
    assert queue.head() is queue.head_of_adapter("sha256:a") is lost
    queue.remove(lost)
    head = queue.head()
    assert head is not None
    assert head.request.tenant == "less"


def test_what_waits_ahead_is_by_shares() -> None:
    fairness = counters(tenants=(TenantSettings("big", weight=3.0),))
    # Its own 4 and the others' 3 / 1 of it, who have no more than 2 anyway.
    assert fairness.ahead("small", {"small": 4.0, "big": 2.0}, total=6.0) == 6.0
    assert fairness.ahead("small", {"small": 1.0, "big": 100.0}, total=101.0) == 4.0
    assert fairness.ahead("new", {"big": 100.0}, total=100.0) == 0.0


def test_several_count_together() -> None:
    one, two = counters(), counters()
    totals: dict[str, float] = {}

    def exchange(which: VirtualTokenCounters) -> None:
        for each in which.cut():
            totals[each.tenant] = totals.get(each.tenant, 0.0) + each.amount
        which.merge([TenantAmount(*item) for item in totals.items()], is_cut_included=True)

    one.charge("a", num_prompt_tokens=10, num_output_tokens=0)
    two.charge("a", num_prompt_tokens=5, num_output_tokens=0)
    two.charge("b", num_prompt_tokens=1, num_output_tokens=0)
    exchange(one)
    exchange(two)
    exchange(one)
    assert one.counters == two.counters == {"a": 15.0, "b": 1.0}
    # What is counted while a cut is under way is neither lost nor counted twice.
    one.charge("a", num_prompt_tokens=3, num_output_tokens=0)
    sent = one.cut()
    one.charge("a", num_prompt_tokens=4, num_output_tokens=0)
    assert one.counter("a") == 22.0
    one.merge([TenantAmount("a", 100.0)], is_cut_included=False)
    assert one.counter("a") == 107.0
    one.merge([TenantAmount("a", 100.0 + sent[0].amount)], is_cut_included=True)
    assert one.counter("a") == 107.0
    assert one.cut() == (TenantAmount("a", 4.0),)


def test_totals_that_were_lost_are_counted_again() -> None:
    fairness = counters()
    fairness.joined("waits", [])
    fairness.charge("waits", num_prompt_tokens=10, num_output_tokens=0)
    fairness.merge([TenantAmount("waits", 500.0), TenantAmount("idle", 400.0)], is_cut_included=False)
    fairness.merge([TenantAmount("other", 2.0)], is_cut_included=False)
    assert fairness.counters == {"waits": 510.0, "other": 2.0}
    assert fairness.cut() == (TenantAmount("waits", 510.0),)


def test_counters_of_idle_tenants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.core.fairness._MAX_IDLE_TENANTS", 10)
    fairness = counters()
    for index in range(200):
        fairness.joined(f"t{index}", [])
        fairness.charge(f"t{index}", num_prompt_tokens=1, num_output_tokens=0)
        fairness.left(f"t{index}")
    assert len(fairness.counters) <= 24
    assert fairness.counter("t199") == 200.0
