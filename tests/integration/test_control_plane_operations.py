"""What operators see of a control plane that serves: tenants, metrics, and why requests went where they went."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from tests.unit.control_shell.fake_store import FakeStore
from tests.unit.control_shell.fake_worker import FakeWorker
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
