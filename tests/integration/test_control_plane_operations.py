"""What operators see of a control plane that serves: tenants, metrics, and why requests went where they went."""

import asyncio
import json
import urllib.request
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from control_plane.operations import simulator
from multitude.operations_codec import trace_to_proto
from multitude.v1 import fleet_pb2, worker_pb2
from tests.unit.control_shell.fake_store import FakeStore, digest
from tests.unit.control_shell.fake_worker import LENGTH, FakeWorker
from tests.unit.control_shell.running import Caller, error_info, serving
from tests.unit.control_shell.tiny_model import write_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
async def rig(model_path: Path) -> AsyncIterator[SimpleNamespace]:
    async with (
        FakeStore() as store,
        FakeWorker("a", is_generous=True) as worker,
        serving(
            model_path,
            store_address=store.address,
            workers={"addresses": (worker.address,)},
            metrics={"listen": "127.0.0.1:0"},
            tenants={"known": ["acme", "umbrella"]},
        ) as caller,
    ):
        await caller.workers_attached(1)
        store.publish("team/a", 1)
        yield SimpleNamespace(caller=caller, store=store, worker=worker)


async def scrape(caller: Caller) -> dict[str, float]:
    def read() -> str:
        with urllib.request.urlopen(f"http://{caller.metrics_address}/metrics", timeout=10) as reply:
            return reply.read().decode()

    lines = (await asyncio.to_thread(read)).splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


async def refused(call: grpc.aio.UnaryStreamCall) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    info = error_info(caught.value)
    return caught.value.code(), info.reason, dict(info.metadata)


async def test_metrics_tell_tenants_and_adapters_apart(rig: SimpleNamespace) -> None:
    await rig.caller.generate(max_tokens=5, tenant="acme", adapter="team/a")
    await rig.caller.generate(max_tokens=4)
    await refused(rig.caller.open(max_tokens=4, adapter="team/nowhere"))
    samples = await scrape(rig.caller)
    assert samples['multitude_tenant_tokens_total{kind="output",tenant="acme"}'] == 5
    assert samples['multitude_tenant_tokens_total{kind="output",tenant="default"}'] == 4
    assert samples['multitude_adapter_requests_total{adapter="team/a",outcome="finished"}'] == 1
    assert samples['multitude_adapter_tokens_total{adapter="(base)",kind="prompt"}'] == 2
    assert samples['multitude_adapter_first_token_seconds_count{adapter="team/a"}'] == 1
    assert samples['multitude_placements_total{reason="cold"}'] == 1
    assert samples['multitude_placements_total{reason="base"}'] == 1
    assert samples["multitude_relayed_tokens_total"] == 9
    assert 2 <= samples["multitude_relayed_chunks_total"] <= 9
    assert samples["multitude_workers"] == 1
    assert samples["multitude_redis_up"] == 0
    assert any(key.startswith('multitude_policy_info{digest="sha256:') for key in samples)
    assert samples["process_cpu_seconds_total"] > 0


async def test_a_tenant_is_one_name_that_is_served(rig: SimpleNamespace) -> None:
    for bad in ("a b", "-x", "x" * 65, "a/b"):
        code, reason, metadata = await refused(rig.caller.open(tenant=bad))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TENANT_INVALID")
        assert metadata["field"] == "multitude-tenant"
    code, reason, metadata = await refused(rig.caller.open(tenant="stranger"))
    assert (code, reason, metadata["tenant"]) == (grpc.StatusCode.PERMISSION_DENIED, "TENANT_UNKNOWN", "stranger")
    assert (await rig.caller.generate(max_tokens=1, tenant="umbrella")).finished


async def test_each_tenant_has_its_own_bound_on_waiting_requests(model_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("name: x\nadmission: {max_queued_per_tenant: 1}\nscorers: [{name: load, weight: 1}]\n")
    async with serving(model_path, policy_file=policy, tenants={"metadata_key": "multitude-tenant"}) as caller:
        first = caller.open(tenant="acme")
        await first.read()
        code, reason, _ = await refused(caller.open(tenant="acme"))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        other = caller.open(tenant="umbrella")
        await other.read()
        assert (await caller.get_fleet()).queued_count == 2
        first.cancel()
        other.cancel()


SPREAD = "name: spread\nscorers: [{name: load, weight: 1}]\n"
WARM = "name: warm\nscorers: [{name: adapter_residency, weight: 3}, {name: load, weight: 1}]\n"
POOL = worker_pb2.RESIDENCY_TIER_POOL


async def explained(caller: Caller, **fields: object) -> fleet_pb2.ExplainPlacementResponse:
    return await caller.fleet.ExplainPlacement(fleet_pb2.ExplainPlacementRequest(**fields))


async def error_of(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), error_info(caught.value).reason, str(caught.value.details())


async def test_an_adapters_placement_is_explained_for_every_worker(model_path: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(WARM)
    async with (
        FakeStore() as store,
        FakeWorker("busy", window=2) as busy,
        FakeWorker("warm") as warm,
        FakeWorker("cold") as cold,
        serving(
            model_path,
            store_address=store.address,
            policy_file=policy,
            workers={"addresses": tuple(each.address for each in (busy, warm, cold))},
        ) as caller,
    ):
        store.publish("team/a", 1)
        streams = [await each.next_stream() for each in (busy, warm, cold)]
        await streams[0].send_status(request_window=0)
        await streams[1].send_status(residency=[worker_pb2.Residency(digest=digest(1), tier=POOL)])
        await caller.fleet_is(lambda fleet: sum(len(each.status.residency) for each in fleet.workers) == 1)
        await caller.fleet_is(lambda fleet: any(each.status.request_window == 0 for each in fleet.workers))
        reply = await explained(caller, adapter="team/a")
        assert not reply.HasField("story")
        decision = reply.decision
        assert (decision.worker_id, decision.picker, decision.policy_name) == ("warm", "max_score", "warm")
        verdicts = {verdict.worker_id: verdict for verdict in decision.verdicts}
        assert list(verdicts) == ["busy", "cold", "warm"]
        assert verdicts["busy"].refused_by
        assert not verdicts["warm"].refused_by
        terms = {term.scorer: (term.weight, term.value) for term in verdicts["warm"].scores}
        assert terms == {"adapter_residency": (3.0, 1.0), "load": (1.0, 1.0)}
        assert verdicts["cold"].score == pytest.approx(0.25)
        assert (await explained(caller, adapter="")).decision.worker_id
        # Explaining changes nothing.
        fleet = await caller.get_fleet()
        assert (fleet.dispatched_count, fleet.queued_count) == (0, 0)


async def test_a_requests_story_is_told_while_it_runs_and_after(model_path: Path) -> None:
    async with (
        FakeWorker("one") as one,
        FakeWorker("two") as two,
        serving(model_path, recent_requests=2, workers={"addresses": (one.address, two.address)}) as caller,
    ):
        streams = {"one": await one.next_stream(), "two": await two.next_stream()}
        running = asyncio.create_task(caller.generate(request_id="r", max_tokens=3, tenant="acme"))
        first = await streams["one"].next_request()
        await streams["one"].send_tokens(first, 0, 1)

        async def told(state: str) -> fleet_pb2.RequestStory:
            story = (await explained(caller, request_id="r")).story
            assert story.state == state
            return story

        await caller.fleet_is(lambda fleet: fleet.dispatched_count == 1)
        assert (await told("running")).tenant == "acme"
        await one.kill()
        second = await streams["two"].next_request()
        await streams["two"].send_tokens(second, len(second.resumed_token_ids), 3, LENGTH)
        await running
        story = await told("finished")
        assert [(step.worker_id, step.reason) for step in story.placements] == [("one", "base"), ("two", "rerouted")]
        assert 0 <= story.placements[0].placed_ms <= story.first_token_ms <= story.ended_ms
        assert (story.prompt_token_count, story.output_token_count) == (2, 3)
        assert story.arrival_time.ToMilliseconds() > 1_700_000_000_000
        for name in ("s", "t"):
            call = caller.open(request_id=name, max_tokens=1)
            await call.read()
            call.cancel()
        await caller.fleet_is(lambda fleet: not fleet.queued_count)

        async def forgotten() -> bool:
            return (await explained(caller, request_id="t")).story.state == "cancelled"

        while not await forgotten():
            pass
        code, reason, message = await error_of(
            caller.fleet.ExplainPlacement(fleet_pb2.ExplainPlacementRequest(request_id="r"))
        )
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_REMEMBERED")
        assert "among the last 2 requests" in message


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "EXPLAIN_SUBJECT_MISSING"),
        ({"request_id": "never"}, "REQUEST_NOT_REMEMBERED"),
        ({"adapter": "team/nowhere"}, "ADAPTER_NOT_FOUND"),
        ({"adapter": "not an id"}, "ADAPTER_NAME_INVALID"),
        ({"adapter": "", "prompt_token_count": -1}, "EXPLAIN_OUT_OF_RANGE"),
        ({"adapter": "", "max_tokens": 100_000}, "EXPLAIN_OUT_OF_RANGE"),
        ({"adapter": "", "priority": 101}, "EXPLAIN_OUT_OF_RANGE"),
        ({"adapter": "", "tenant": "a b"}, "EXPLAIN_OUT_OF_RANGE"),
    ],
)
async def test_what_cannot_be_explained_is_refused_by_name(
    model_path: Path, fields: dict[str, object], reason: str
) -> None:
    async with serving(model_path) as caller:
        _, found, _ = await error_of(caller.fleet.ExplainPlacement(fleet_pb2.ExplainPlacementRequest(**fields)))
        assert found == reason


def simulation(**fields: object) -> fleet_pb2.SimulatePoliciesRequest:
    lines = [
        {"at_s": index * 0.05, "prompt_tokens": 50, "output_tokens": 20, "tenant": "ab"[index % 2], "adapter_id": "x"}
        for index in range(100)
    ]
    usual: dict[str, object] = {
        "trace": "\n".join(map(json.dumps, lines)),
        "policies": [
            fleet_pb2.CandidatePolicy(label="one", yaml=SPREAD),
            fleet_pb2.CandidatePolicy(label="two", yaml=WARM),
        ],
        "worker_count": 2,
    }
    return fleet_pb2.SimulatePoliciesRequest(**usual | fields)


async def test_policies_are_simulated_side_by_side(model_path: Path) -> None:
    async with serving(model_path) as caller:
        outcomes = (await caller.fleet.SimulatePolicies(simulation())).outcomes
        assert [outcome.label for outcome in outcomes] == ["one", "two"]
        for outcome in outcomes:
            assert (outcome.request_count, outcome.finished_count) == (100, 100)
            assert outcome.attainment == 1.0
            assert [tenant.tenant for tenant in outcome.tenants] == ["a", "b"]
            assert sum(outcome.output_token_counts) == 100 * 20
            assert len(outcome.first_token_curve_ms) == 100
            assert list(outcome.first_token_curve_ms) == sorted(outcome.first_token_curve_ms)
        # Two workers load the adapter where requests are spread, one where they follow it.
        assert [outcome.adapter_load_count for outcome in outcomes] == [2, 1]
        assert (await caller.get_fleet()).policy.name == "built-in"


async def test_a_measured_machine_is_simulated_by_its_name_with_changes(model_path: Path) -> None:
    async with serving(model_path) as caller:
        times = []
        for fields in ({}, {"service": "h200-llama-7b"}, {"service": "h200-llama-7b", "costs": {"step_s": 0.05}}):
            outcomes = (await caller.fleet.SimulatePolicies(simulation(**fields))).outcomes
            times.append(outcomes[0].output_token.p50_ms)
        assert times[1] != pytest.approx(times[0], rel=0.1)
        assert times[2] > 50 > times[1]


async def test_a_trace_above_a_messages_size_goes_compressed(model_path: Path) -> None:
    line = json.dumps({"at_s": 0.0, "prompt_tokens": 1, "output_tokens": 1})
    # Blank lines are passed over, so that there is little to play.
    fields = trace_to_proto("\n".join([line] * 1000) + "\n" * (17 << 20))
    async with serving(model_path) as caller:
        asked = simulation(trace="", policies=[fleet_pb2.CandidatePolicy(label="one", yaml=SPREAD)], **fields)
        assert asked.ByteSize() < 1 << 20
        (outcome,) = (await caller.fleet.SimulatePolicies(asked)).outcomes
        assert outcome.request_count == 1000


@pytest.mark.parametrize(
    ("fields", "reason", "problem"),
    [
        ({"compressed_trace": b"x"}, "TRACE_INVALID", "not both"),
        ({"trace": "", "compressed_trace": b"nonsense"}, "TRACE_INVALID", "cannot be unpacked"),
        ({"trace": "", "compressed_trace": zlib.compress(b"{}")[:-1]}, "TRACE_INVALID", "ends too early"),
        ({"trace": '{"at_s": 0, "prompt_tokens": 1, "output_tokens": 1}\nnonsense'}, "TRACE_INVALID", "line 2"),
        ({"trace": '{"at_s": "now", "prompt_tokens": 1, "output_tokens": 1}'}, "TRACE_INVALID", "line 1: at_s"),
        ({"trace": ""}, "TRACE_INVALID", "empty"),
        ({"policies": []}, "SIMULATION_INVALID", "policies"),
        ({"policies": [fleet_pb2.CandidatePolicy(label="x", yaml="name: [")]}, "POLICY_INVALID", "x: line 1"),
        ({"worker_count": -1}, "SIMULATION_INVALID", "worker_count"),
        ({"costs": {"nonsense": 1.0}}, "SIMULATION_INVALID", "nonsense"),
        ({"service": "h100"}, "SIMULATION_INVALID", "there are h200-llama-7b"),
        ({"costs": {"window": 0.5}}, "SIMULATION_INVALID", "whole number"),
        ({"costs": {"step_s": float("nan")}}, "SIMULATION_INVALID", "step_s"),
    ],
)
async def test_what_cannot_be_simulated_is_refused_by_name(
    model_path: Path, fields: dict[str, object], reason: str, problem: str
) -> None:
    async with serving(model_path) as caller:
        code, found, message = await error_of(caller.fleet.SimulatePolicies(simulation(**fields)))
        assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert problem in message


async def test_simulated_workers_are_like_the_attached_ones(model_path: Path) -> None:
    only = "name: x\nscorers: [{{name: load, weight: 1}}]\nfilters: [{{name: labels, match: {{zone: {zone}}}}}]\n"
    policies = [fleet_pb2.CandidatePolicy(label=zone, yaml=only.format(zone=zone)) for zone in ("here", "nowhere")]
    async with (
        FakeWorker("a") as worker,
        serving(model_path, workers={"addresses": (worker.address,)}) as caller,
    ):
        stream = await worker.next_stream()
        await stream.send_status(labels={"zone": "here"})
        await caller.fleet_is(lambda fleet: [dict(each.status.labels) for each in fleet.workers] == [{"zone": "here"}])
        outcomes = (await caller.fleet.SimulatePolicies(simulation(policies=policies))).outcomes
        assert [outcome.finished_count for outcome in outcomes] == [100, 0]
        assert dict(outcomes[1].error_counts) == {"NO_WORKER": 100}


async def test_one_simulation_runs_at_a_time_and_none_for_ever(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(model_path, simulation_timeout_s=0.2) as caller:
        code, reason, _ = await error_of(caller.fleet.SimulatePolicies(simulation()))
        assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "SIMULATION_TOO_LONG")
    async with serving(model_path) as caller:
        asked = asyncio.Event()

        async def never(*_: object, **__: object) -> object:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(simulator.asyncio, "create_subprocess_exec", never)
        first = caller.fleet.SimulatePolicies(simulation())
        waiting = asyncio.ensure_future(error_of(first))
        await asked.wait()
        code, reason, _ = await error_of(caller.fleet.SimulatePolicies(simulation()))
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SIMULATION_BUSY")
        waiting.cancel()
        first.cancel()
