"""The synchronous client."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from multitude import codec, operations_codec, types
from multitude.channel import OPTIONS, new_request_id, tenant_metadata
from multitude.errors import UnavailableError, from_rpc_error
from multitude.upload import check_directory, create_requests
from multitude.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
)


class GenerationStream:
    """A generation in progress: iterate over it for its token chunks.

    Leaving its `with` block, or `cancel()`, stops the generation and frees its memory on the worker.

    Attributes:
        started: set before the first chunk.
        finished: set after the last.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._chunks: list[types.TokenChunk] = []
        self.started: types.Started | None = None
        self.finished: types.Finished | None = None

    def __iter__(self) -> Iterator[types.TokenChunk]:
        try:
            for message in self._call:
                match message.WhichOneof("event"):
                    case "chunk":
                        chunk = codec.chunk_from_proto(message.chunk)
                        self._chunks.append(chunk)
                        yield chunk
                    case "started":
                        self.started = codec.started_from_proto(message.started)
                    case "finished":
                        self.finished = codec.finished_from_proto(message.finished)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def result(self) -> types.Generation:
        """Waits for the end and returns the whole generation. Errors: as Client.generate."""
        for _ in self:
            pass
        if self.started is None or self.finished is None:
            raise UnavailableError("the stream ended early; send the request again", reason="STREAM_BROKEN")
        return codec.generation_from_parts(self.started, self._chunks, self.finished)

    def cancel(self) -> None:
        """Stops the generation; does nothing after its end."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class Adapters:
    """The adapter store's calls. Errors: every method raises a MultitudeError of multitude.errors."""

    def __init__(self, channel: grpc.Channel, timeout_s: float) -> None:
        self._stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        self._timeout_s = timeout_s

    def create(self, adapter_id: str, directory: str | Path, *, base_model: str = "") -> types.PublishedAdapter:
        """Uploads a PEFT directory; `base_model` asserts what it was trained on if its own config does not say."""
        check_directory(Path(directory))
        requests = create_requests(adapter_id, Path(directory), base_model=base_model, request_id=new_request_id())
        return codec.published_from_proto(_call(lambda: self._stub.CreateAdapter(requests, timeout=self._timeout_s)))

    def import_(self, adapter_id: str, source_uri: str, *, base_model: str = "") -> types.PublishedAdapter:
        """Publishes a PEFT directory that the store can read itself, such as "file:///adapters/a"."""
        request = adapter_pb2.ImportAdapterRequest(
            adapter_id=adapter_id, source_uri=source_uri, base_model=base_model, request_id=new_request_id()
        )
        return codec.published_from_proto(_call(lambda: self._stub.ImportAdapter(request, timeout=self._timeout_s)))

    def get(self, adapter_id: str) -> types.Adapter:
        """One adapter with its versions."""
        request = adapter_pb2.GetAdapterRequest(adapter_id=adapter_id)
        return codec.adapter_from_proto(_call(lambda: self._stub.GetAdapter(request, timeout=self._timeout_s)).adapter)

    def list(self, *, id_prefix: str = "") -> Iterator[types.Adapter]:
        """All adapters by id, fetched page by page."""
        request = adapter_pb2.ListAdaptersRequest(id_prefix=id_prefix, page_size=1000)
        while True:
            page = _call(lambda: self._stub.ListAdapters(request, timeout=self._timeout_s))
            yield from map(codec.adapter_from_proto, page.adapters)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def delete(self, adapter_id: str, *, digest: str = "") -> int:
        """Deletes an adapter, or one version; returns how many versions no adapter names any more."""
        request = adapter_pb2.DeleteAdapterRequest(adapter_id=adapter_id, digest=digest, request_id=new_request_id())
        reply = _call(lambda: self._stub.DeleteAdapter(request, timeout=self._timeout_s))
        return int(reply.deleted_version_count)


class Client:
    """Multitude, synchronously; safe to share between threads.

    Args:
        address: the control plane, "host:port".
        store_address: the adapter store, "host:port"; needed for `adapters` only.
        timeout_s: deadline of every call but `generate` and `stream`, which take their own.
        tenant: whose requests these are, sent as gRPC metadata; empty: the control plane's default tenant.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:7000",
        *,
        store_address: str = "127.0.0.1:7001",
        timeout_s: float = 60.0,
        tenant: str = "",
    ) -> None:
        self._timeout_s = timeout_s
        self._metadata = tenant_metadata(tenant)
        self._channel = grpc.insecure_channel(address, options=OPTIONS)
        self._store_channel = grpc.insecure_channel(store_address, options=OPTIONS)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._fleet = fleet_pb2_grpc.FleetServiceStub(self._channel)
        self.adapters = Adapters(self._store_channel, timeout_s)

    def stream(
        self,
        prompt: types.Prompt,
        *,
        adapter: str = "",
        max_tokens: int | None = None,
        sampling: types.SamplingParams | None = None,
        stop: types.StopConditions | None = None,
        logprob_count: int | None = None,
        priority: int = 0,
        first_token_deadline_ms: int = 0,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> GenerationStream:
        """Generates, token by token. Arguments: protos/multitude/v1/generation.proto, GenerateRequest.

        Errors: raised while iterating, as `generate`.
        """
        request = codec.generate_request(
            prompt,
            request_id=request_id or new_request_id(),
            adapter=adapter,
            sampling=sampling,
            stop=stop,
            max_tokens=max_tokens,
            logprob_count=logprob_count,
            priority=priority,
            first_token_deadline_ms=first_token_deadline_ms,
        )
        return GenerationStream(self._generation.Generate(request, timeout=timeout_s, metadata=self._metadata))

    def generate(self, prompt: types.Prompt, **options: Any) -> types.Generation:
        """Generates and returns the whole; takes what `stream` takes.

        Errors: InvalidRequestError, NotFoundError, OverloadedError, DeadlineError, UnavailableError, ConflictError.
        """
        with self.stream(prompt, **options) as stream:
            return stream.result()

    def count_tokens(self, prompt: types.Prompt) -> int:
        """Tokens of a prompt, counted as `generate` would."""
        request = generation_pb2.CountTokensRequest(prompt=codec.prompt_to_proto(prompt))
        return int(_call(lambda: self._generation.CountTokens(request, timeout=self._timeout_s)).token_count)

    def models(self) -> Iterator[types.Model]:
        """The base model, then its adapters by id."""
        request = generation_pb2.ListModelsRequest(page_size=1000)
        while True:
            page = _call(lambda: self._generation.ListModels(request, timeout=self._timeout_s))
            yield from map(codec.model_from_proto, page.models)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def fleet(self) -> types.Fleet:
        """Workers, queues and the policy in force."""
        reply = _call(lambda: self._fleet.GetFleet(fleet_pb2.GetFleetRequest(), timeout=self._timeout_s))
        return codec.fleet_from_proto(reply)

    def check_policy(self, yaml: str) -> types.PolicyCheck:
        """What is wrong with a placement policy, or doubtful in the fleet as it is. Nothing is applied."""
        request = fleet_pb2.CheckPolicyRequest(yaml=yaml)
        reply = _call(lambda: self._fleet.CheckPolicy(request, timeout=self._timeout_s))
        return codec.check_from_proto(reply)

    def apply_policy(self, yaml: str) -> types.AppliedPolicy:
        """Makes a placement policy the whole fleet's, as a new version.

        Errors: InvalidRequestError with reason POLICY_INVALID, UnavailableError with reason STATE_UNAVAILABLE; nothing
        is applied then.
        """
        request = fleet_pb2.ApplyPolicyRequest(yaml=yaml)
        return operations_codec.applied_from_proto(
            _call(lambda: self._fleet.ApplyPolicy(request, timeout=self._timeout_s)).applied
        )

    def policy_history(self) -> Iterator[types.AppliedPolicy]:
        """The versions that were applied, newest first; the first is in force."""
        request = fleet_pb2.ListPoliciesRequest(page_size=1000)
        while True:
            page = _call(lambda: self._fleet.ListPolicies(request, timeout=self._timeout_s))
            yield from map(operations_codec.applied_from_proto, page.policies)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def roll_back_policy(self, version: int | None = None) -> types.AppliedPolicy:
        """Applies an earlier version again: the one before the version in force, or `version`; 0: the policy files."""
        request = fleet_pb2.RollBackPolicyRequest(version=version)
        reply = _call(lambda: self._fleet.RollBackPolicy(request, timeout=self._timeout_s))
        return operations_codec.applied_from_proto(reply.applied)

    def drain_worker(self, worker_id: str, *, is_draining: bool = True) -> bool:
        """Takes a worker out of service on every control plane: it gets no new request; or puts it back.

        Returns whether such a worker is attached now; if none is, it is for the one that comes.
        """
        request = fleet_pb2.DrainWorkerRequest(worker_id=worker_id, is_draining=is_draining)
        reply = _call(lambda: self._fleet.DrainWorker(request, timeout=self._timeout_s))
        return bool(reply.is_attached)

    def explain_placement(
        self,
        *,
        request_id: str = "",
        adapter: str = "",
        tenant: str = "",
        num_prompt_tokens: int = 0,
        max_tokens: int = 0,
        priority: int = 0,
    ) -> types.Explanation:
        """Where a request would be placed now, and why: one that was made, or one made up for `adapter`.

        Errors: NotFoundError with reason REQUEST_NOT_REMEMBERED or ADAPTER_NOT_FOUND, InvalidRequestError.
        """
        request = fleet_pb2.ExplainPlacementRequest(
            tenant=tenant, prompt_token_count=num_prompt_tokens, max_tokens=max_tokens, priority=priority
        )
        if request_id:
            request.request_id = request_id
        else:
            request.adapter = adapter
        reply = _call(lambda: self._fleet.ExplainPlacement(request, timeout=self._timeout_s))
        return operations_codec.explanation_from_proto(reply)

    def simulate_policies(
        self,
        trace: str,
        policies: Mapping[str, str],
        *,
        num_workers: int = 0,
        seed: int = 0,
        service: str = "",
        costs: Mapping[str, float] | None = None,
        timeout_s: float | None = None,
    ) -> tuple[types.SimulatedOutcome, ...]:
        """What policies, texts by label, would make of a trace of JSON lines; see fleet.proto.

        Errors: InvalidRequestError with reason TRACE_INVALID, POLICY_INVALID or SIMULATION_INVALID, OverloadedError,
        DeadlineError.
        """
        request = fleet_pb2.SimulatePoliciesRequest(
            **operations_codec.trace_to_proto(trace),
            policies=[fleet_pb2.CandidatePolicy(label=label, yaml=yaml) for label, yaml in policies.items()],
            worker_count=num_workers,
            seed=seed,
            service=service,
            costs=costs or {},
        )
        reply = _call(lambda: self._fleet.SimulatePolicies(request, timeout=timeout_s))
        return tuple(map(operations_codec.outcome_from_proto, reply.outcomes))

    def close(self) -> None:
        """Closes the connections; streams in progress are cancelled."""
        self._channel.close()
        self._store_channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _call(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
