"""A policy that leaves a request no worker ends it with a named error, and the next policy serves the others."""

import random
from dataclasses import replace

import pytest

from control_plane.core.director import Director
from control_plane.core.policy import AdmissionSettings
from control_plane.core.types import Failed, PolicyChanged, RequestArrived, SendBatch, Tick, WorkerReported
from control_plane.policy.document import load_policy
from tests.unit.control_core.makers import request, status

STARVING = {
    "labels": "filters: [{name: labels, match: {zone: nowhere}}]",
    "min_free_pages": "filters: [{name: min_free_pages, share: 1}]",
    "adapter_fits": "filters: [adapter_fits]",
    "sequence_fits": "filters: [sequence_fits]",
    "health": "filters: [{name: health, max_silence_s: 0.5}]",
    "tenants": "filters: [{name: tenants, mode: own}]",
}
GRACE_S = 2.0


def make(filters: str) -> Director:
    policy = load_policy(f"name: starving\n{filters}\nscorers: [{{name: load, weight: 1}}]\n").policy
    policy = replace(policy, admission=AdmissionSettings(no_worker_grace_s=GRACE_S))
    made = Director(policy, random.Random(0))
    made.on_event(WorkerReported(status("a", window=1, kv_pages=1, tenants=("somebody",))), 0.0)
    made.on_event(WorkerReported(status("b", kv_pages=1, tenants=("somebody",))), 0.0)
    return made


def asked_of(name: str, index: int = 0):
    tenant = "else" if name == "tenants" else "somebody"
    size = 10**7 if name == "adapter_fits" else 1000
    max_tokens = 10**5 if name == "sequence_fits" else 10
    return request(f"r{index}", "x", tenant=tenant, size_bytes=size, max_tokens=max_tokens)


@pytest.mark.parametrize("name", STARVING)
def test_the_filter_that_starves_a_request_is_named(name: str) -> None:
    made = make(STARVING[name])
    made.on_event(RequestArrived(asked_of(name)), 1.0)
    assert made.explain(asked_of(name), random.Random(0), 1.0).emptied_by == name
    assert made.on_event(Tick(), 1.0 + GRACE_S - 0.1) == []
    (failed,) = made.on_event(Tick(), 1.0 + GRACE_S + 0.1)
    assert isinstance(failed, Failed)
    assert failed.error.reason == "NO_WORKER"
    assert failed.error.metadata["refused_by"] == failed.error.metadata["emptied_by"] == name
    assert name in failed.error.message
    assert made.snapshot().num_queued == 0


@pytest.mark.parametrize("name", STARVING)
def test_the_filter_is_named_where_the_deadline_comes_before_the_grace_time(name: str) -> None:
    made = make(STARVING[name])
    made.on_event(RequestArrived(replace(asked_of(name), first_token_deadline_s=1.0)), 1.0)
    (failed,) = made.on_event(Tick(), 2.1)
    assert isinstance(failed, Failed)
    assert failed.error.reason == "NO_WORKER"
    assert failed.error.metadata["refused_by"] == name
    assert made.snapshot().num_queued == 0


@pytest.mark.parametrize("name", ["labels", "min_free_pages", "health"])
def test_a_better_policy_serves_what_waits(name: str) -> None:
    made = make(STARVING[name])
    for index in range(4):
        made.on_event(RequestArrived(asked_of(name, index)), 1.0)
    better = load_policy("name: better\nscorers: [{name: load, weight: 1}]\n").policy
    effects = made.on_event(PolicyChanged(better), 2.0)
    sent = [each.request.request_id for effect in effects if isinstance(effect, SendBatch) for each in effect.requests]
    assert sorted(sent) == ["r0", "r1", "r2", "r3"]


def test_a_filter_that_waits_for_what_runs_starves_nobody() -> None:
    made = make("filters: [{name: max_load, load: 0.01}]")
    for index in range(3):
        made.on_event(RequestArrived(asked_of("max_load", index)), 1.0)
    assert made.on_event(Tick(), 100.0) == []
    assert made.snapshot().num_queued == 1
