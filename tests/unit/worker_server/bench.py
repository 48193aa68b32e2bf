"""A real Dispatch server around a scripted engine, and control planes that speak to it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from tokenizers import Tokenizer, decoders, models

from multitude.v1 import sampling_pb2, worker_pb2, worker_pb2_grpc
from worker.codec import DETAILS_KEY
from worker.config import WorkerConfig
from worker.engine_process.messages import EngineFacts
from worker.errors import WorkerError
from worker.memory.layout import AdapterLayout, ModelShape
from worker.server import WorkerServer, WorkerServicer
from worker.serving.desk import DeskLimits, RequestDesk
from worker.serving.residency import ResidencyBoard
from worker.serving.status import StatusBoard
from worker.text.vocabulary import build_vocabulary, byte_alphabet
from worker.types import (
    AdapterRef,
    EngineRequest,
    EngineStats,
    FinishReason,
    HostedAdapter,
    PoolResidency,
    RequestFailure,
    SequenceOutput,
    StepResult,
    WorkerStatus,
)

FACTS = EngineFacts(
    context_length=64,
    max_running=8,
    vocab_size=256,
    eos_token_ids=frozenset({0}),
    total_pages=100,
    page_size_bytes=4096,
    block_size=16,
)
BASE_MODEL = "tiny"
SHAPE = ModelShape(1, 8, 1, 1, 8, 16)
LAYOUT = AdapterLayout(SHAPE, ((1, 0, 0, 0, 0, 0, 0),), ((1.0,) * 7,))


def byte_tokenizer() -> Tokenizer:
    """Token `i` is byte `i`."""
    tokenizer = Tokenizer(models.BPE(vocab=byte_alphabet(), merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def digest(name: str) -> str:
    return "sha256:" + name.encode().hex().ljust(64, "0")


@dataclass
class ScriptedEngine:
    """Keeps what it was told; the test says what its steps produce."""

    submitted: list[EngineRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        self.submitted += requests
        self.arrived.set()

    def cancel(self, request_ids: Sequence[str]) -> None:
        self.cancelled += request_ids
        self.arrived.set()

    async def wait_submitted(self, count: int) -> list[EngineRequest]:
        while len(self.submitted) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return self.submitted

    async def wait_cancelled(self, count: int) -> list[str]:
        while len(self.cancelled) < count:
            self.arrived.clear()
            await self.arrived.wait()
        return self.cancelled


class ScriptedLease:
    def __init__(self, host: "ScriptedHost", name: str) -> None:
        self.adapter = HostedAdapter(name, LAYOUT, (0,))
        self._host = host
        host.leases.append(name)

    def release(self) -> None:
        self._host.leases.remove(self.adapter.digest)


@dataclass
class ScriptedHost:
    """Adapters that are there, those that come when the test says so, and those that fail."""

    hosted: set[str] = field(default_factory=set)
    failing: dict[str, Exception] = field(default_factory=dict)
    leases: list[str] = field(default_factory=list)
    hinted: list[str] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    num_cancelled: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def get_hosted(self, digest: str) -> ScriptedLease | None:
        if digest in self.hosted and digest in self.failing:
            raise self.failing[digest]
        return ScriptedLease(self, digest) if digest in self.hosted else None

    async def get(self, ref: AdapterRef) -> ScriptedLease:
        try:
            await self.gates.setdefault(ref.digest, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            self.changed.set()
            raise
        if ref.digest in self.failing:
            raise self.failing[ref.digest]
        return ScriptedLease(self, ref.digest)

    def prefetch(self, refs: Sequence[AdapterRef]) -> None:
        self.hinted += [ref.digest for ref in refs]
        self.changed.set()

    def land(self, name: str) -> None:
        self.gates.setdefault(name, asyncio.Event()).set()


class ControlPlane:
    """One Dispatch stream, from its other end."""

    def __init__(self, call: "grpc.aio.StreamStreamCall[worker_pb2.DispatchRequest, worker_pb2.DispatchResponse]"):
        self.call = call

    async def attach(self, *, credits: int = 100, base_model: str = BASE_MODEL) -> worker_pb2.WorkerStatus:  # noqa: A002
        attach = worker_pb2.Attach(control_plane_id="cp", base_model=base_model, step_credit_count=credits)
        await self.call.write(worker_pb2.DispatchRequest(attach=attach))
        return (await self.read()).status

    async def send(self, *requests: worker_pb2.DispatchedRequest) -> None:
        await self.call.write(worker_pb2.DispatchRequest(batch=worker_pb2.RequestBatch(requests=requests)))

    async def cancel(self, request_id: str) -> None:
        await self.call.write(worker_pb2.DispatchRequest(cancel=worker_pb2.CancelRequest(request_id=request_id)))

    async def credit(self, count: int) -> None:
        await self.call.write(worker_pb2.DispatchRequest(credit=worker_pb2.StepCredit(step_credit_count=count)))

    async def prefetch(self, *names: str) -> None:
        refs = [worker_pb2.AdapterRef(adapter_id="t/a", digest=name) for name in names]
        await self.call.write(worker_pb2.DispatchRequest(prefetch=worker_pb2.PrefetchHint(adapters=refs)))

    async def read(self) -> worker_pb2.DispatchResponse:
        async with asyncio.timeout(10):
            response = await self.call.read()
        assert isinstance(response, worker_pb2.DispatchResponse), f"the stream ended: {response}"
        return response

    async def read_code(self) -> grpc.StatusCode:
        """The stream's status. What still comes is read first: gRPC tells the status of a stream only after that."""
        with suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(10):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
        return await self.call.code()

    async def read_ack(self) -> worker_pb2.BatchAck:
        response = await self.read()
        assert response.WhichOneof("message") == "ack", response
        return response.ack

    async def read_step(self) -> worker_pb2.StepOutput:
        response = await self.read()
        assert response.WhichOneof("message") == "step", response
        return response.step

    async def read_status(self) -> worker_pb2.WorkerStatus:
        response = await self.read()
        assert response.WhichOneof("message") == "status", response
        return response.status


class Bench:
    """The server, what it leans on, and a way to attach."""

    def __init__(self, *, request_window: int = 8, message_tokens: int = 1000, with_store: bool = True) -> None:
        self.engine = ScriptedEngine()
        self.host = ScriptedHost()
        self.board = ResidencyBoard()
        self.status = StatusBoard(
            WorkerStatus("w1", BASE_MODEL, request_window, 4096, 16, EngineStats(total_pages=100, free_pages=100)),
            self.board,
        )
        self.desk = RequestDesk(
            DeskLimits(request_window, message_tokens),
            FACTS,
            self.engine,
            build_vocabulary(byte_tokenizer()),
            self.host if with_store else None,
            self.status,
        )
        self.server: WorkerServer  # these two by running_bench; a desk alone needs no event loop
        self.channel: grpc.aio.Channel

    def connect(self) -> ControlPlane:
        return ControlPlane(worker_pb2_grpc.WorkerServiceStub(self.channel).Dispatch())

    async def attached(self, *, credits: int = 100) -> ControlPlane:  # noqa: A002
        control_plane = self.connect()
        await control_plane.attach(credits=credits)
        return control_plane

    def step(
        self,
        *outputs: SequenceOutput,
        failures: Sequence[RequestFailure] = (),
        residency: Sequence[PoolResidency] = (),
        stats: EngineStats | None = None,
    ) -> None:
        self.desk.on_step(StepResult(outputs, tuple(failures), tuple(residency), stats or EngineStats()))

    def lose_engine(self, error: WorkerError) -> None:
        self.desk.on_engine_lost(error)


@asynccontextmanager
async def running_bench(**settings: object) -> AsyncIterator[Bench]:
    bench = Bench(**settings)  # type: ignore[arg-type]
    config = WorkerConfig.model_validate({"model": {"path": "/m"}, "listen": "127.0.0.1:0"})
    bench.server = WorkerServer(WorkerServicer(bench.desk, bench.status, BASE_MODEL), config)
    address = await bench.server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        bench.channel = channel
        try:
            yield bench
        finally:
            await bench.server.stop()


def request(request_id: str, prompt: Sequence[int] = (65,), **fields: object) -> worker_pb2.DispatchedRequest:
    values: dict[str, object] = {"max_tokens": 16, "sampling": sampling_pb2.SamplingParams(temperature=0.0)} | fields
    return worker_pb2.DispatchedRequest(request_id=request_id, prompt_token_ids=prompt, **values)  # type: ignore[arg-type]


def adapter(name: str) -> worker_pb2.AdapterRef:
    return worker_pb2.AdapterRef(adapter_id=f"team/{name}", digest=digest(name), rank=1, size_bytes=10)


def said(key: str, text: str, finish: FinishReason | None = None) -> SequenceOutput:
    """What a step produces for a sequence whose tokens are these bytes."""
    return SequenceOutput(key, tuple(text.encode()), finish_reason=finish)


async def ended(control_plane: ControlPlane) -> tuple[grpc.StatusCode, str]:
    """The stream's status and its stable reason."""
    code = await control_plane.read_code()
    async with asyncio.timeout(10):
        trailers = dict(await control_plane.call.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers[DETAILS_KEY])  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, status.code) == ("multitude", code.value[0])
    return code, info.reason
