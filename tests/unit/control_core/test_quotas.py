import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control_plane.core.policy import FairnessSettings, TenantSettings
from control_plane.core.quotas import TokenQuotas
from control_plane.core.types import TenantAmount

RATE, BURST_S = 10.0, 5.0


class QuotaMachine(RuleBasedStateMachine):
    """No tenant uses more than its burst and its rate allow, but for what its last request owes; clocks may jump."""

    @initialize()
    def make(self) -> None:
        self.quotas = TokenQuotas(FairnessSettings(default_tokens_per_s=RATE, quota_burst_s=BURST_S))
        self.now = self.earliest = self.latest = 100.0
        self.used = 0
        self.largest = 0

    @rule(elapsed=st.sampled_from([0.0, 0.1, 1.0, 7.0, -3.0]))
    def wait(self, elapsed: float) -> None:
        self.now += elapsed
        # Before the first request, the quotas do not know that a clock went back.
        self.earliest = min(self.earliest, self.now)
        self.latest = max(self.latest, self.now)

    @rule(tokens=st.integers(1, 60))
    def ask(self, tokens: int) -> None:
        refusal = self.quotas.refusal("t", self.now)
        if refusal is None:
            self.quotas.use("t", tokens, self.now)
            self.used += tokens
            self.largest = max(self.largest, tokens)
            return
        assert refusal.reason == "QUOTA_EXCEEDED"
        assert refusal.retry_after_s is not None
        assert 0 < refusal.retry_after_s < math.inf
        # Coming back when told to helps; asking changes nothing.
        self.now = self.latest = max(self.now, self.latest) + refusal.retry_after_s
        assert self.quotas.refusal("t", self.now) is None

    @invariant()
    def keeps_the_rate(self) -> None:
        assert self.used <= RATE * (BURST_S + self.latest - self.earliest) + self.largest + 1e-6


TestQuotas = QuotaMachine.TestCase
TestQuotas.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_tenant_without_a_quota_uses_what_it_likes() -> None:
    quotas = TokenQuotas(FairnessSettings(tenants=(TenantSettings("held", tokens_per_s=1.0),)))
    for _ in range(3):
        quotas.use("free", 10**9, 0.0)
        quotas.use("held", 100, 0.0)
    assert quotas.refusal("free", 0.0) is None
    held = quotas.refusal("held", 0.0)
    assert held is not None
    assert held.metadata == {"tenant": "held", "tokens_per_s": "1"}


def test_use_at_other_control_planes_counts() -> None:
    quotas = TokenQuotas(FairnessSettings(default_tokens_per_s=10.0, quota_burst_s=10.0))
    quotas.use("t", 30, 0.0)
    assert quotas.cut() == (TenantAmount("t", 30.0),)
    # Others used 500 before this control plane knew of them: that is over.
    quotas.merge([TenantAmount("t", 530.0)], 0.0, is_cut_included=True)
    assert quotas.refusal("t", 0.0) is None
    quotas.merge([TenantAmount("t", 600.0)], 0.0, is_cut_included=False)
    refusal = quotas.refusal("t", 0.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(0.1)


def test_a_new_policy_changes_rates() -> None:
    quotas = TokenQuotas(FairnessSettings(default_tokens_per_s=1.0))
    quotas.use("t", 1000, 0.0)
    assert quotas.refusal("t", 0.0) is not None
    quotas.settings = FairnessSettings(default_tokens_per_s=1000.0)
    assert quotas.refusal("t", 1.0) is None
    quotas.settings = FairnessSettings()
    assert quotas.refusal("t", 1.0) is None


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.core.quotas._MAX_BUCKETS", 10)
    quotas = TokenQuotas(FairnessSettings(default_tokens_per_s=1.0))
    quotas.use("owes", 1000, 0.0)
    for index in range(100):
        assert quotas.refusal(f"t{index}", float(index)) is None
    assert len(quotas._buckets) <= 10
    assert quotas.refusal("owes", 99.0) is not None
