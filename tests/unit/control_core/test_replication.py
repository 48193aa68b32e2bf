"""Adapters are brought to where they belong before their requests come."""

import random

from control_plane.core.demand import ReplicationSettings
from control_plane.core.director import Director
from control_plane.core.homes import homes
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.placement.profile import Profile, WeightedScorer
from control_plane.core.placement.scorers.home import Home
from control_plane.core.policy import Policy
from control_plane.core.types import (
    DrainChanged,
    Effect,
    FinishReason,
    RequestArrived,
    ResidencyTier,
    SendBatch,
    SequenceOutput,
    Tick,
    TokensProduced,
    WorkerReported,
)
from tests.unit.control_core.makers import request, status

POOL = ResidencyTier.POOL
SETTINGS = ReplicationSettings(worker_requests_per_s=1.0, max_workers=3, half_life_s=10.0, max_moves=4)
POLICY = Policy(
    "home", placement=PlacementPolicy(Profile(scorers=(WeightedScorer(Home(), 1.0),))), replication=SETTINGS
)
WORKERS = [f"w{index}" for index in range(6)]


def make(policy: Policy = POLICY, **tenants: tuple[str, ...]) -> Director:
    made = Director(policy, random.Random(0))
    for worker_id in WORKERS:
        made.on_event(WorkerReported(status(worker_id, tenants=tenants.get(worker_id, ()))), 0.0)
    return made


def serve(made: Director, name: str, times: int, now: float, *, tenant: str = "default") -> set[str]:
    """Requests that end at once; returns the workers that they went to."""
    seen = set()
    for index in range(times):
        effects = made.on_event(RequestArrived(request(f"{name}-{now}-{index}", name, tenant=tenant)), now)
        (batch,) = [effect for effect in effects if isinstance(effect, SendBatch)]
        seen.add(batch.worker_id)
        output = SequenceOutput(batch.requests[0].request.request_id, (1,), finish_reason=FinishReason.STOP)
        made.on_event(TokensProduced(batch.worker_id, (output,)), now)
    return seen


def hints(effects: list[Effect]) -> dict[str, list[str]]:
    return {
        effect.worker_id: [each.adapter_id for each in effect.prefetch]
        for effect in effects
        if isinstance(effect, SendBatch) and effect.prefetch
    }


def test_a_hot_adapter_is_brought_to_the_workers_where_its_requests_will_go() -> None:
    made = make()
    columns = made._fleet.columns
    expected = {columns.worker_id(row) for row in homes("sha256:a", columns.numbers, columns.is_attached, 3).tolist()}
    (first,) = serve(made, "a", 1, 1.0)
    made.on_event(WorkerReported(status(first, residency={"a": POOL})), 1.0)
    assert hints(made.on_event(Tick(), 1.0)) == {}
    serve(made, "a", 100, 2.0)
    found = hints(made.on_event(Tick(), 2.0))
    assert set(map(tuple, found.values())) == {("a",)}
    assert {first, *found} == expected
    # None is told again of what it was told of already, and that is where requests go.
    assert hints(made.on_event(Tick(), 4.0)) == {}
    assert serve(made, "a", 30, 4.0) <= expected


def test_a_cold_adapter_has_one_worker() -> None:
    made = make()
    assert len({worker for at in range(0, 100, 20) for worker in serve(made, "a", 1, float(at))}) == 1
    assert hints(made.on_event(Tick(), 100.0)) == {}


def test_the_adapters_of_a_draining_worker_go_where_they_belong_then() -> None:
    made = make()
    names = [f"a{index}" for index in range(40)]
    home_of = {name: worker for name in names for worker in serve(made, name, 1, 1.0)}
    draining = home_of["a0"]
    lost = {name for name in names if home_of[name] == draining}
    made.on_event(WorkerReported(status(draining, residency=dict.fromkeys(lost, POOL) | {"cold": POOL})), 1.0)
    made.on_event(DrainChanged(draining, is_draining=True), 2.0)
    moved: dict[str, str] = {}
    for step in range(20):
        found = hints(made.on_event(Tick(), 3.0 + step))
        assert sum(map(len, found.values())) <= SETTINGS.max_moves
        moved |= {name: worker for worker, told in found.items() for name in told}
    assert set(moved) == lost
    assert draining not in moved.values()
    assert {name: worker for name in lost for worker in serve(made, name, 1, 30.0)} == moved


def test_adapters_are_not_brought_to_workers_that_their_tenant_may_not_use() -> None:
    made = make(**dict.fromkeys(WORKERS[:4], ("other",)))
    seen = serve(made, "a", 100, 2.0)
    assert seen | set(hints(made.on_event(Tick(), 2.0))) <= {"w4", "w5"}


def test_without_the_home_scorer_any_worker_that_has_the_adapter_will_do() -> None:
    made = make(Policy("anywhere", replication=SETTINGS))
    serve(made, "a", 100, 2.0)
    (told,) = [set(hints(made.on_event(Tick(), 2.0)))]
    assert len(told) == 3
    made = make(Policy("anywhere", replication=SETTINGS))
    for worker_id in ("w1", "w3"):
        made.on_event(WorkerReported(status(worker_id, residency={"a": POOL})), 1.0)
    serve(made, "a", 100, 2.0)
    assert len(hints(made.on_event(Tick(), 2.0))) == 1


def test_nothing_moves_where_the_policy_says_so() -> None:
    policy = Policy("still", placement=POLICY.placement, replication=ReplicationSettings(max_moves=0))
    made = make(policy)
    serve(made, "a", 1000, 2.0)
    made.on_event(DrainChanged("w0", is_draining=True), 2.0)
    assert hints(made.on_event(Tick(), 2.0)) == {}
