"""What is seen of the director: records, recent requests, counts and the documented exposition."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from control_plane.core.errors import QueueFull, SloUnreachable
from control_plane.core.snapshot import DirectorSnapshot
from control_plane.core.types import (
    Accepted,
    AdapterRef,
    DispatchedRequest,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    FinishReason,
    Request,
    RequestArrived,
    ResidencyTier,
    SendBatch,
    SequenceOutput,
    Tick,
    Timings,
    Usage,
)
from control_plane.observation.exposition import Reading, families
from control_plane.observation.metrics import BASE, MAX_ERRORS, Metrics
from control_plane.observation.observer import Observer
from control_plane.observation.recent import RecentRequests
from control_plane.observation.record import Outcome, PlacementReason
from control_plane.observation.scope import MAX_REASONS
from control_plane.types import PolicyVersion

ROOT = Path(__file__).parents[3]


class ScriptedCore:
    """Says what a test puts down for the next event."""

    def __init__(self) -> None:
        self.next: list[Effect] = []

    def on_event(self, event: Event, now: float) -> Sequence[Effect]:
        effects, self.next = self.next, []
        return effects


class World:
    """An observer with every sink, driven by hand."""

    def __init__(self, max_adapters: int = 10, max_recent: int = 10) -> None:
        self.core = ScriptedCore()
        self.metrics = Metrics(max_adapters, 10)
        self.recent = RecentRequests(max_recent)
        self.observer = Observer(self.core, (self.metrics, self.recent), "sha256:p")

    def arrive(
        self, request_id: str, *effects: Effect, at: float = 0.0, adapter: str = "", tenant: str = "t"
    ) -> Request:
        ref = AdapterRef(adapter, f"sha256:{adapter}", 8, 1) if adapter else None
        request = Request(request_id, (1, 2, 3), 9, 0.0, adapter=ref, tenant=tenant)
        self.core.next = list(effects) or [Accepted(request_id)]
        self.observer.on_event(RequestArrived(request), at)
        return request

    def then(self, at: float, *effects: Effect) -> None:
        self.core.next = list(effects)
        assert self.observer.on_event(Tick(), at) == list(effects)

    def samples(self) -> dict[str, float]:
        snapshot = self.metrics.snapshot(self.observer.live, 100.0)
        policy = PolicyVersion("p", "sha256:p", "")
        reading = Reading(snapshot, DirectorSnapshot(0, 0, 0, ()), policy, self.observer.num_output_tokens, 0, True)
        return parse(reading)


class Fixed(Collector):
    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def collect(self) -> list[Metric]:
        return list(families(self.reading))


def parse(reading: Reading) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Fixed(reading))
    lines = generate_latest(registry).decode().splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def send(request: Request, worker_id: str = "w", tier: ResidencyTier = ResidencyTier.NONE) -> SendBatch:
    return SendBatch(worker_id, (DispatchedRequest(request, (), tier),))


def tokens(request_id: str, count: int) -> Emitted:
    return Emitted(SequenceOutput(request_id, (7,) * count, "x"))


def finished(request_id: str, reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(request_id, reason, Usage(3, 1), Timings(0.0, 0.0, 0.0))


@pytest.fixture
def world() -> World:
    return World()


def test_a_request_is_followed_from_arrival_to_end(world: World) -> None:
    request = world.arrive("r", at=1.0, adapter="team/a")
    world.then(1.5, send(request, "one", ResidencyTier.HOST))
    world.then(2.0, tokens("r", 1))
    world.then(2.5, send(request, "two"))
    world.then(4.0, tokens("r", 4), finished("r"))
    record = world.recent.get("r")
    assert record is not None
    assert world.observer.live == {}
    found = [(placement.worker_id, placement.at, placement.reason) for placement in record.placements]
    assert found == [("one", 1.5, PlacementReason.HOST), ("two", 2.5, PlacementReason.REROUTED)]
    assert (record.first_token_at, record.ended_at, record.num_output_tokens) == (2.0, 4.0, 5)
    assert (record.outcome, record.num_prompt_tokens, record.request.prompt_token_ids) == (Outcome.FINISHED, 3, ())
    samples = world.samples()
    assert samples['multitude_adapter_requests_total{adapter="team/a",outcome="finished"}'] == 1
    assert samples['multitude_tenant_tokens_total{kind="output",tenant="t"}'] == 5
    assert samples['multitude_adapter_first_token_seconds_sum{adapter="team/a"}'] == 1.0
    assert samples['multitude_adapter_first_token_seconds_bucket{adapter="team/a",le="0.5"}'] == 0
    assert samples['multitude_adapter_first_token_seconds_bucket{adapter="team/a",le="1.0"}'] == 1
    assert samples['multitude_adapter_output_token_seconds_sum{adapter="team/a"}'] == 0.5
    assert samples['multitude_adapter_queue_seconds_sum{adapter="team/a"}'] == 0.5
    assert samples['multitude_placements_total{reason="host"}'] == 1
    assert samples['multitude_adapter_placements_total{adapter="team/a",reason="rerouted"}'] == 1
    assert samples["multitude_relayed_tokens_total"] == 5


@pytest.mark.parametrize(
    ("tier", "adapter", "reason"),
    [
        (ResidencyTier.POOL, "team/a", PlacementReason.POOL),
        (ResidencyTier.NONE, "team/a", PlacementReason.COLD),
        (ResidencyTier.POOL, "", PlacementReason.BASE),
    ],
)
def test_placements_say_what_was_found(
    world: World, tier: ResidencyTier, adapter: str, reason: PlacementReason
) -> None:
    request = world.arrive("r", adapter=adapter)
    world.then(1.0, send(request, tier=tier))
    assert world.observer.live["r"].placements[0].reason is reason


def test_refused_dropped_failed_and_cancelled_are_told_apart(world: World) -> None:
    world.arrive("refused", Failed("refused", QueueFull("full")))
    world.arrive("dropped")
    world.then(1.0, Failed("dropped", SloUnreachable("late")))
    request = world.arrive("failed")
    world.then(1.0, send(request), Failed("failed", SloUnreachable("late")))
    world.arrive("cancelled")
    world.then(1.0, finished("cancelled", FinishReason.CANCELLED))
    outcomes = {key: record.outcome.value for key, record in world.recent._records.items() if record.outcome}
    assert all(name == outcome for name, outcome in outcomes.items())
    assert len(outcomes) == 4
    samples = world.samples()
    assert samples['multitude_errors_total{outcome="refused",reason="QUEUE_FULL"}'] == 1
    assert samples['multitude_errors_total{outcome="dropped",reason="SLO_UNREACHABLE"}'] == 1
    assert samples['multitude_errors_total{outcome="failed",reason="SLO_UNREACHABLE"}'] == 1
    assert samples['multitude_tenant_requests_total{outcome="cancelled",tenant="t"}'] == 1
    assert samples['multitude_tenant_errors_total{reason="SLO_UNREACHABLE",tenant="t"}'] == 2


def test_waiting_requests_have_an_age(world: World) -> None:
    world.arrive("first", at=60.0, adapter="team/a")
    world.arrive("second", at=90.0, adapter="team/a")
    request = world.arrive("sent", at=10.0, adapter="team/a")
    world.then(91.0, send(request))
    samples = world.samples()
    assert samples['multitude_adapter_queued{adapter="team/a"}'] == 2
    assert samples['multitude_tenant_queue_age_seconds{tenant="t"}'] == 40.0


def test_a_request_whose_arrival_fails_leaves_no_record(world: World) -> None:
    world.core.on_event = lambda event, now: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        world.arrive("r")
    assert world.observer.live == {}


def test_memory_and_labels_are_bounded() -> None:
    world = World(max_adapters=3, max_recent=5)
    for index in range(50):
        request = world.arrive(f"r{index}", adapter=f"team/{index}", tenant=f"tenant-{index}")
        world.then(1.0, send(request), tokens(f"r{index}", 2), finished(f"r{index}"))
        error = QueueFull("full")
        error.reason = f"REASON_{index * 10}"
        for number in range(10):
            error.reason = f"REASON_{index * 10 + number}"
            world.arrive(f"refused-{index}", Failed(f"refused-{index}", error), adapter=f"team/{index}", tenant="t")
    assert len(world.recent) == 5
    samples = world.samples()
    adapters = {key for key in samples if key.startswith("multitude_adapter_tokens_total")}
    assert len(adapters) == 2 * 4
    assert sum(samples[key] for key in adapters if 'kind="output"' in key) == 100
    errors = [key for key in samples if key.startswith("multitude_errors")]
    assert len(errors) == MAX_ERRORS + 1
    assert len([key for key in samples if key.startswith("multitude_tenant_errors")]) == MAX_REASONS + 1
    assert samples['multitude_errors_total{outcome="refused",reason="other"}'] == 500 - MAX_ERRORS


def test_the_base_model_has_a_label_no_adapter_can_have(world: World) -> None:
    world.arrive("r", Failed("r", QueueFull("full")))
    assert world.samples()[f'multitude_adapter_requests_total{{adapter="{BASE}",outcome="refused"}}'] == 1


def test_the_documented_metrics_are_the_exposition(world: World) -> None:
    world.arrive("r", Failed("r", QueueFull("full")))
    snapshot = world.metrics.snapshot({}, 0.0)
    policy = PolicyVersion("p", "sha256:p", "")
    shown = {}
    for family in families(Reading(snapshot, DirectorSnapshot(0, 0, 0, ()), policy, 0, 0, True)):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown[name] = family.type
    rows = re.findall(r"^\| `(multitude_\w+)` \| (\w+) \|", (ROOT / "deploy/METRICS.md").read_text(), re.MULTILINE)
    assert dict(rows) == shown
    assert len(rows) == len(shown)
