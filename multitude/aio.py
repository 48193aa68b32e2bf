"""The asynchronous client: the synchronous one's calls as coroutines and asynchronous iterators."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from multitude import codec, operations_codec, types
from multitude.channel import OPTIONS, new_request_id, tenant_metadata
from multitude.errors import CancelledByCallerError, UnavailableError, from_rpc_error
from multitude.upload import check_directory, create_requests
from multitude.v1 import (
    adapter_pb2,
    adapter_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
)


class AsyncGenerationStream:
    """A generation in progress: iterate over it with `async for`; see multitude.client.GenerationStream."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._is_cancelled = False
        self._chunks: list[types.TokenChunk] = []
        self.started: types.Started | None = None
        self.finished: types.Finished | None = None

    async def __aiter__(self) -> AsyncIterator[types.TokenChunk]:
        try:
            async for message in self._call:
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
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if not self._is_cancelled or (task is not None and task.cancelling()):
                raise  # the task is cancelled, not the call alone
            raise CancelledByCallerError("the call was cancelled", reason="CANCELLED") from error

    async def result(self) -> types.Generation:
        """Waits for the end and returns the whole generation."""
        async for _ in self:
            pass
        if self.started is None or self.finished is None:
            raise UnavailableError("the stream ended early; send the request again", reason="STREAM_BROKEN")
        return codec.generation_from_parts(self.started, self._chunks, self.finished)

    def cancel(self) -> None:
        """Stops the generation; does nothing after its end."""
        self._is_cancelled = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncAdapters:
    """The adapter store's calls; see multitude.client.Adapters."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        self._stub = adapter_pb2_grpc.AdapterServiceStub(channel)
        self._timeout_s = timeout_s

    async def create(self, adapter_id: str, directory: str | Path, *, base_model: str = "") -> types.PublishedAdapter:
        """Uploads a PEFT directory."""
        check_directory(Path(directory))
        requests = create_requests(adapter_id, Path(directory), base_model=base_model, request_id=new_request_id())
        return codec.published_from_proto(await _call(self._stub.CreateAdapter(requests, timeout=self._timeout_s)))

    async def import_(self, adapter_id: str, source_uri: str, *, base_model: str = "") -> types.PublishedAdapter:
        """Publishes a PEFT directory that the store can read itself."""
        request = adapter_pb2.ImportAdapterRequest(
            adapter_id=adapter_id, source_uri=source_uri, base_model=base_model, request_id=new_request_id()
        )
        return codec.published_from_proto(await _call(self._stub.ImportAdapter(request, timeout=self._timeout_s)))

    async def get(self, adapter_id: str) -> types.Adapter:
        """One adapter with its versions."""
        request = adapter_pb2.GetAdapterRequest(adapter_id=adapter_id)
        return codec.adapter_from_proto((await _call(self._stub.GetAdapter(request, timeout=self._timeout_s))).adapter)

    async def list(self, *, id_prefix: str = "") -> AsyncIterator[types.Adapter]:
        """All adapters by id, fetched page by page."""
        request = adapter_pb2.ListAdaptersRequest(id_prefix=id_prefix, page_size=1000)
        while True:
            page = await _call(self._stub.ListAdapters(request, timeout=self._timeout_s))
            for adapter in page.adapters:
                yield codec.adapter_from_proto(adapter)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete(self, adapter_id: str, *, digest: str = "") -> int:
        """Deletes an adapter, or one version; returns how many versions no adapter names any more."""
        request = adapter_pb2.DeleteAdapterRequest(adapter_id=adapter_id, digest=digest, request_id=new_request_id())
        reply = await _call(self._stub.DeleteAdapter(request, timeout=self._timeout_s))
        return int(reply.deleted_version_count)


class AsyncClient:
    """Multitude, asynchronously; make it inside a running event loop. See multitude.client.Client."""

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
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._store_channel = grpc.aio.insecure_channel(store_address, options=OPTIONS)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._fleet = fleet_pb2_grpc.FleetServiceStub(self._channel)
        self.adapters = AsyncAdapters(self._store_channel, timeout_s)

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
    ) -> AsyncGenerationStream:
        """Generates, token by token; see multitude.client.Client.stream."""
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
        return AsyncGenerationStream(self._generation.Generate(request, timeout=timeout_s, metadata=self._metadata))

    async def generate(self, prompt: types.Prompt, **options: Any) -> types.Generation:
        """Generates and returns the whole; takes what `stream` takes."""
        async with self.stream(prompt, **options) as stream:
            return await stream.result()

    async def count_tokens(self, prompt: types.Prompt) -> int:
        """Tokens of a prompt, counted as `generate` would."""
        request = generation_pb2.CountTokensRequest(prompt=codec.prompt_to_proto(prompt))
        return int((await _call(self._generation.CountTokens(request, timeout=self._timeout_s))).token_count)

    async def models(self) -> AsyncIterator[types.Model]:
        """The base model, then its adapters by id."""
        request = generation_pb2.ListModelsRequest(page_size=1000)
        while True:
            page = await _call(self._generation.ListModels(request, timeout=self._timeout_s))
            for model in page.models:
                yield codec.model_from_proto(model)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def fleet(self) -> types.Fleet:
        """Workers, queues and the policy in force."""
        reply = await _call(self._fleet.GetFleet(fleet_pb2.GetFleetRequest(), timeout=self._timeout_s))
        return codec.fleet_from_proto(reply)

    async def check_policy(self, yaml: str) -> types.PolicyCheck:
        """What is wrong with a placement policy, or doubtful in the fleet as it is. Nothing is applied."""
        request = fleet_pb2.CheckPolicyRequest(yaml=yaml)
        reply = await _call(self._fleet.CheckPolicy(request, timeout=self._timeout_s))
        return codec.check_from_proto(reply)

    async def apply_policy(self, yaml: str) -> types.AppliedPolicy:
        """Makes a placement policy the whole fleet's, as a new version; see multitude.client.Client.apply_policy."""
        request = fleet_pb2.ApplyPolicyRequest(yaml=yaml)
        reply = await _call(self._fleet.ApplyPolicy(request, timeout=self._timeout_s))
        return operations_codec.applied_from_proto(reply.applied)

    async def policy_history(self) -> AsyncIterator[types.AppliedPolicy]:
        """The versions that were applied, newest first; the first is in force."""
        request = fleet_pb2.ListPoliciesRequest(page_size=1000)
        while True:
            page = await _call(self._fleet.ListPolicies(request, timeout=self._timeout_s))
            for applied in page.policies:
                yield operations_codec.applied_from_proto(applied)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def roll_back_policy(self, version: int | None = None) -> types.AppliedPolicy:
        """Applies an earlier version again: the one before the version in force, or `version`; 0: the policy files."""
        request = fleet_pb2.RollBackPolicyRequest(version=version)
        reply = await _call(self._fleet.RollBackPolicy(request, timeout=self._timeout_s))
        return operations_codec.applied_from_proto(reply.applied)

    async def drain_worker(self, worker_id: str, *, is_draining: bool = True) -> bool:
        """Takes a worker out of service on every control plane: it gets no new request; or puts it back.

        Returns whether such a worker is attached now; if none is, it is for the one that comes.
        """
        request = fleet_pb2.DrainWorkerRequest(worker_id=worker_id, is_draining=is_draining)
        reply = await _call(self._fleet.DrainWorker(request, timeout=self._timeout_s))
        return bool(reply.is_attached)

    async def explain_placement(
        self,
        *,
        request_id: str = "",
        adapter: str = "",
        tenant: str = "",
        num_prompt_tokens: int = 0,
        max_tokens: int = 0,
        priority: int = 0,
    ) -> types.Explanation:
        """Where a request would be placed now, and why: one that was made, or one made up for `adapter`."""
        request = fleet_pb2.ExplainPlacementRequest(
            tenant=tenant, prompt_token_count=num_prompt_tokens, max_tokens=max_tokens, priority=priority
        )
        if request_id:
            request.request_id = request_id
        else:
            request.adapter = adapter
        reply = await _call(self._fleet.ExplainPlacement(request, timeout=self._timeout_s))
        return operations_codec.explanation_from_proto(reply)

    async def simulate_policies(
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
        """What policies, texts by label, would make of a trace of JSON lines; see fleet.proto."""
        request = fleet_pb2.SimulatePoliciesRequest(
            **operations_codec.trace_to_proto(trace),
            policies=[fleet_pb2.CandidatePolicy(label=label, yaml=yaml) for label, yaml in policies.items()],
            worker_count=num_workers,
            seed=seed,
            service=service,
            costs=costs or {},
        )
        reply = await _call(self._fleet.SimulatePolicies(request, timeout=timeout_s))
        return tuple(map(operations_codec.outcome_from_proto, reply.outcomes))

    async def close(self) -> None:
        """Closes the connections; streams in progress are cancelled."""
        await self._channel.close()
        await self._store_channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _call(call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
