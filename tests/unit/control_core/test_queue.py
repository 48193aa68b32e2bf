from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from control_plane.core.fairness import ArrivalOrder, OrderKey, VirtualTokenCounters
from control_plane.core.ledger import TrackedRequest
from control_plane.core.policy import FairnessSettings
from control_plane.core.queue import WaitingQueue
from control_plane.core.shares import TenantShares
from tests.unit.control_core.makers import request, tracked

NAMES = ("a", "b", None)
TENANTS = ("t", "u")


class QueueMachine(RuleBasedStateMachine):
    """The queue against a sorted list."""

    waiting = Bundle("waiting")

    @initialize(newest_first=st.booleans())
    def make(self, newest_first: bool) -> None:
        settings = FairnessSettings()
        self.queue = WaitingQueue(ArrivalOrder(settings), TenantShares(settings), newest_first=newest_first)
        self.sign = -1 if newest_first else 1
        self.ordered: list[TrackedRequest] = []
        self.parked: list[TrackedRequest] = []
        self.number = 0

    def key(self, each: TrackedRequest) -> OrderKey:
        return (0 if each.is_requeued else 1, -each.request.priority, self.sign * each.turn, self.sign * each.number)

    @rule(
        target=waiting,
        name=st.sampled_from(NAMES),
        tenant=st.sampled_from(TENANTS),
        priority=st.integers(-1, 1),
        is_requeued=st.booleans(),
        turn=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
        cost=st.sampled_from([0.0, 0.5, 3.0]),
    )
    def add(
        self, name: str | None, tenant: str, priority: int, is_requeued: bool, turn: float, cost: float
    ) -> TrackedRequest:
        self.number += 1
        each = tracked(self.number, name, tenant=tenant, priority=priority)
        each.is_requeued, each.turn, each.cost = is_requeued, turn, cost
        self.queue.add(each)
        self.ordered.append(each)
        return each

    @rule(each=consumes(waiting))
    def remove(self, each: TrackedRequest) -> None:
        self.queue.remove(each)
        (self.ordered if each in self.ordered else self.parked).remove(each)

    @rule(target=waiting, each=consumes(waiting))
    def remove_and_requeue(self, each: TrackedRequest) -> TrackedRequest:
        self.remove(each)
        each.is_requeued = True
        self.queue.add(each)
        self.ordered.append(each)
        return each

    @rule(each=waiting)
    def park(self, each: TrackedRequest) -> None:
        self.queue.park(each)
        (self.ordered if each in self.ordered else self.parked).remove(each)
        self.parked.append(each)

    @rule(each=waiting)
    def unpark(self, each: TrackedRequest) -> None:
        if each in self.parked:
            self.queue.unpark(each)
            self.parked.remove(each)
            self.ordered.append(each)

    @rule(newest_first=st.booleans())
    def reorder(self, newest_first: bool) -> None:
        self.queue.reorder(newest_first=newest_first)
        self.sign = -1 if newest_first else 1

    @rule(turns=st.randoms(use_true_random=False))
    def reassess(self, turns: Random) -> None:
        self.queue.reassess(lambda each: turns.choice([0.0, 0.1, 1.0, 5.0]))

    @rule(each=waiting)
    def churn(self, each: TrackedRequest) -> None:
        """Fill the heaps with stale items."""
        for _ in range(40):
            self.queue.remove(each)
            (self.ordered if each in self.ordered else self.parked).remove(each)
            self.queue.add(each)
            self.ordered.append(each)

    @invariant()
    def agrees(self) -> None:
        expected = sorted(self.ordered, key=self.key)
        assert self.queue.head() is (expected[0] if expected else None)
        assert self.queue.first(3) == expected[:3]
        for name in NAMES:
            digest = f"sha256:{name}" if name else None
            group = [each for each in expected if each.digest == digest]
            assert self.queue.head_of_adapter(digest) is (group[0] if group else None)
        assert self.queue.parked(2) == self.parked[:2]
        everybody = self.ordered + self.parked
        assert len(self.queue) == len(everybody)
        assert self.queue.num_parked == len(self.parked)
        for tenant in TENANTS:
            assert self.queue.num_of_tenant(tenant) == sum(each.request.tenant == tenant for each in everybody)
        counts = [self.queue.num_of_tenant(tenant) for tenant in TENANTS]
        assert self.queue.num_of_largest == max(counts)
        assert set(self.queue.tenants) == {tenant for tenant, count in zip(TENANTS, counts, strict=True) if count}
        if everybody:
            largest = max(zip(counts, TENANTS, strict=True))[1]
            own = [each for each in everybody if each.request.tenant == largest]
            assert self.queue.last_of_largest() is max(own, key=self.key)
        for priority in (-1, 0, 1):
            for turn in (0.0, 1.0):
                ahead = sum(
                    each.cost
                    for each in everybody
                    if each.request.priority > priority
                    or (each.request.priority == priority and self.sign > 0 and each.turn < turn + 0.25)
                )
                assert self.queue.cost_ahead(request(priority=priority), turn) == pytest.approx(ahead)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_fairness_scheme_chooses_among_tenants() -> None:
    fairness = VirtualTokenCounters(FairnessSettings())
    queue = WaitingQueue(fairness, TenantShares(FairnessSettings()), newest_first=False)
    for number in range(4):
        queue.add(tracked(number, tenant="greedy"))
    queue.add(tracked(4, tenant="modest"))
    order = []
    while (head := queue.head()) is not None:
        order.append(head.request.tenant)
        queue.remove(head)
        fairness.charge(head.request.tenant, num_prompt_tokens=4, num_output_tokens=0)
    assert order == ["greedy", "modest", "greedy", "greedy", "greedy"]
