"""A control plane and an adapter store with scripted answers, as a real gRPC server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from multitude.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    sampling_pb2,
    worker_pb2,
)


@dataclass
class Script:
    """What the services answer, and what they saw."""

    chunks: tuple[str, ...] = ("Hel", "", "lo")
    fail: tuple[grpc.StatusCode, str, str] | None = None
    fail_times: int = 1_000_000
    fail_after_chunks: bool = False
    hang: bool = False
    problems: tuple[tuple[int, str, str], ...] = ()
    warnings: tuple[tuple[int, str, str], ...] = ()
    applied: list[str] = field(default_factory=list)
    drained: list[tuple[str, bool]] = field(default_factory=list)
    requests: list[generation_pb2.GenerateRequest] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    explained: list[fleet_pb2.ExplainPlacementRequest] = field(default_factory=list)
    simulated: list[fleet_pb2.SimulatePoliciesRequest] = field(default_factory=list)
    uploads: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cancelled: Event = field(default_factory=Event)


class FakeServices(
    generation_pb2_grpc.GenerationServiceServicer,
    fleet_pb2_grpc.FleetServiceServicer,
    adapter_pb2_grpc.AdapterServiceServicer,
):
    """Follows its script."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def _fail(self, context: grpc.ServicerContext) -> None:
        assert self.script.fail is not None
        code, reason, message = self.script.fail
        info = error_details_pb2.ErrorInfo(reason=reason, domain="multitude", metadata={"field": "max_tokens"})
        retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))
        details = [any_pb2.Any(), any_pb2.Any()]
        details[0].Pack(info)
        details[1].Pack(retry)
        status = status_pb2.Status(code=code.value[0], message=message, details=details)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, message)

    def Generate(self, request, context):
        self.script.tenants += [value for key, value in context.invocation_metadata() if key == "multitude-tenant"]
        self.script.requests.append(request)
        if self.script.fail and not self.script.fail_after_chunks and self.script.fail_times > 0:
            self.script.fail_times -= 1
            self._fail(context)
        if self.script.hang:
            context.add_callback(self.script.cancelled.set)
        yield generation_pb2.GenerateResponse(
            started=generation_pb2.Started(request_id=request.request_id, prompt_token_count=3, seed=7)
        )
        for index, text in enumerate(self.script.chunks):
            chunk = generation_pb2.TokenChunk(token_ids=[index], text=text)
            if request.HasField("logprob_count"):
                chosen = sampling_pb2.TokenLogprob(token_id=index, logprob=-0.5)
                chunk.logprobs.append(sampling_pb2.PositionLogprobs(chosen=chosen, top=[chosen]))
            yield generation_pb2.GenerateResponse(chunk=chunk)
        if self.script.hang:
            self.script.cancelled.wait(30)
            return
        if self.script.fail_after_chunks:
            self._fail(context)
        yield generation_pb2.GenerateResponse(
            finished=generation_pb2.Finished(
                reason=sampling_pb2.FINISH_REASON_STOP,
                usage=generation_pb2.Usage(prompt_token_count=3, output_token_count=len(self.script.chunks)),
                timings=generation_pb2.Timings(dispatched_ms=1, first_token_ms=2, finished_ms=4),
            )
        )

    def CountTokens(self, request, context):
        return generation_pb2.CountTokensResponse(token_count=len(request.prompt.text))

    def ListModels(self, request, context):
        if not request.page_token:
            base = generation_pb2.Model(id="base", is_base=True, base_model="base", context_length=64)
            return generation_pb2.ListModelsResponse(models=[base], next_page_token="1")
        adapter = generation_pb2.Model(id="team/a", base_model="base", context_length=64, rank=8)
        return generation_pb2.ListModelsResponse(models=[adapter])

    def GetFleet(self, request, context):
        status = worker_pb2.WorkerStatus(
            worker_id="w0",
            total_page_count=10,
            labels={"zone": "a"},
            tenants=["t"],
            residency=[
                worker_pb2.Residency(digest="sha256:aa", tier=worker_pb2.RESIDENCY_TIER_POOL),
                worker_pb2.Residency(digest="sha256:bb", tier=worker_pb2.RESIDENCY_TIER_HOST),
            ],
        )
        return fleet_pb2.GetFleetResponse(
            workers=[fleet_pb2.WorkerView(address="h:1", is_attached=True, status=status)],
            policy=fleet_pb2.PolicyVersion(
                name="default",
                yaml="name: default\n",
                version=2,
                source=fleet_pb2.POLICY_SOURCE_APPLIED,
                shadowed_file="/policies/default.yaml",
            ),
            is_state_store_reachable=True,
            control_planes=[
                fleet_pb2.ControlPlaneView(control_plane_id="one", address="h:2", policy_version=2),
                fleet_pb2.ControlPlaneView(control_plane_id="two", address="h:3", policy_version=1),
            ],
        )

    def DrainWorker(self, request, context):
        self.script.drained.append((request.worker_id, request.is_draining))
        return fleet_pb2.DrainWorkerResponse(is_attached=request.worker_id == "w0")

    def CheckPolicy(self, request, context):
        problems = [fleet_pb2.PolicyProblem(line=n, path=p, message=m) for n, p, m in self.script.problems]
        warnings = [fleet_pb2.PolicyProblem(line=n, path=p, message=m) for n, p, m in self.script.warnings]
        return fleet_pb2.CheckPolicyResponse(problems=problems, warnings=warnings)

    def ApplyPolicy(self, request, context):
        self.script.applied.append(request.yaml)
        return fleet_pb2.ApplyPolicyResponse(applied=_applied(len(self.script.applied)))

    def ListPolicies(self, request, context):
        count = len(self.script.applied)
        start = int(request.page_token or count)
        token = str(start - 1) if start > 1 else ""
        return fleet_pb2.ListPoliciesResponse(policies=[_applied(start)] if count else [], next_page_token=token)

    def RollBackPolicy(self, request, context):
        if request.HasField("version") and request.version > len(self.script.applied):
            self.script.fail = (grpc.StatusCode.NOT_FOUND, "POLICY_VERSION_NOT_FOUND", "version: not remembered")
            self._fail(context)
        version = request.version if request.HasField("version") else len(self.script.applied) - 1
        self.script.applied.append("" if version == 0 else self.script.applied[version - 1])
        return fleet_pb2.RollBackPolicyResponse(applied=_applied(len(self.script.applied), restored=version))

    def ExplainPlacement(self, request, context):
        self.script.explained.append(request)
        if request.request_id == "unknown":
            self.script.fail = (grpc.StatusCode.NOT_FOUND, "REQUEST_NOT_REMEMBERED", "request_id: not remembered")
            self._fail(context)
        terms = [fleet_pb2.ScoreTerm(scorer="load", weight=4, value=0.5)]
        verdicts = [
            fleet_pb2.WorkerVerdict(worker_id="w0", refused_by=["adapter_fits", "max_load"], scores=terms),
            fleet_pb2.WorkerVerdict(worker_id="w1", scores=terms, score=0.25),
            fleet_pb2.WorkerVerdict(worker_id="w2", scores=terms, score=0.75),
        ]
        story = fleet_pb2.RequestStory(
            request_id="r",
            tenant="acme",
            adapter="team/a",
            state="failed",
            placements=[fleet_pb2.PlacementStep(worker_id="w1", placed_ms=3, reason="cold")],
            ended_ms=20.4,
            prompt_token_count=7,
            error_reason="ADAPTER_CORRUPT",
            error_message="its digest is wrong",
            control_plane_id="one",
        )
        decision = fleet_pb2.PlacementDecision(
            worker_id="w2", profile="default", picker="max_score", verdicts=verdicts, policy_name="default"
        )
        return fleet_pb2.ExplainPlacementResponse(
            story=story if request.WhichOneof("subject") == "request_id" else None, decision=decision
        )

    def SimulatePolicies(self, request, context):
        self.script.simulated.append(request)
        times = fleet_pb2.SimulatedTimes(p50_ms=20, p90_ms=30, p99_ms=40, mean_ms=25)
        return fleet_pb2.SimulatePoliciesResponse(
            outcomes=[
                fleet_pb2.SimulatedOutcome(
                    label=policy.label,
                    request_count=10,
                    finished_count=0 if index else 9,
                    fairness=1.0,
                    load_balance=1.0,
                    attainment=0.9 - index / 10,
                    first_token=times,
                    output_token=times,
                    error_counts={"QUEUE_FULL": 1 + index},
                    tenants=[fleet_pb2.SimulatedTenant(tenant=name, attainment=0.5) for name in ("acme", "umbrella")],
                    duration_ms=1000,
                    first_token_curve_ms=[10.0, 20.0],
                    output_token_counts=[5, 6],
                )
                for index, policy in enumerate(request.policies)
            ]
        )

    def CreateAdapter(self, request_iterator, context):
        adapter_id, files, name = "", {}, ""
        for message in request_iterator:
            match message.WhichOneof("part"):
                case "header":
                    adapter_id = message.header.adapter_id
                case "file":
                    name = message.file.name
                    files[name] = b""
                case "data":
                    files[name] += message.data
        if self.script.fail:
            self._fail(context)
        self.script.uploads[adapter_id] = files
        adapter = self._adapter(adapter_id)
        return adapter_pb2.CreateAdapterResponse(adapter=adapter, version=adapter.latest, created=True)

    def ListAdapters(self, request, context):
        ids = sorted(self.script.uploads)
        start = int(request.page_token or 0)
        page = [self._adapter(adapter_id) for adapter_id in ids[start : start + 1]]
        token = str(start + 1) if start + 1 < len(ids) else ""
        return adapter_pb2.ListAdaptersResponse(adapters=page, next_page_token=token)

    def GetAdapter(self, request, context):
        return adapter_pb2.GetAdapterResponse(adapter=self._adapter(request.adapter_id))

    def DeleteAdapter(self, request, context):
        self.script.uploads.pop(request.adapter_id, None)
        return adapter_pb2.DeleteAdapterResponse(deleted_version_count=1)

    @staticmethod
    def _adapter(adapter_id: str) -> adapter_pb2.Adapter:
        version = adapter_pb2.AdapterVersion(digest="sha256:cc", rank=8, target_modules=["q", "v"], size_bytes=2048)
        return adapter_pb2.Adapter(adapter_id=adapter_id, base_model="base", latest=version, versions=[version])


def _applied(version: int, restored: int | None = None) -> fleet_pb2.AppliedPolicy:
    is_file = restored == 0
    applied = fleet_pb2.AppliedPolicy(
        version=version,
        name="" if is_file else "spread",
        digest="" if is_file else "sha256:dd",
        control_plane_id="one",
        restored_version=restored,
    )
    applied.apply_time.FromSeconds(1_800_000_000)
    return applied


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Serves the script on a free port; yields the address."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    services = FakeServices(script)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(services, server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(services, server)
    adapter_pb2_grpc.add_AdapterServiceServicer_to_server(services, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        script.cancelled.set()
        server.stop(None).wait()
