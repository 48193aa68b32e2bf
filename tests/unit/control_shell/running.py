"""A control plane in this process, and a client to it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from control_plane.app import ControlPlane
from control_plane.config import ControlPlaneConfig
from multitude.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc

TIMEOUT_S = 15.0

T = TypeVar("T")


@dataclass
class Answer:
    """What a stream said, and how it ended."""

    started: generation_pb2.Started | None = None
    chunks: list[generation_pb2.TokenChunk] = field(default_factory=list)
    finished: generation_pb2.Finished | None = None

    @property
    def token_ids(self) -> list[int]:
        return [token_id for chunk in self.chunks for token_id in chunk.token_ids]

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    def add(self, message: generation_pb2.GenerateResponse) -> None:
        assert self.finished is None, "nothing comes after the end"
        match message.WhichOneof("event"):
            case "started":
                assert self.started is None
                self.started = message.started
            case "chunk":
                assert self.started is not None
                self.chunks.append(message.chunk)
            case "finished":
                self.finished = message.finished


class Caller:
    """A client of one control plane."""

    def __init__(self, address: str, metrics_address: str = "") -> None:
        self.address = address
        self.metrics_address = metrics_address
        self.channel = grpc.aio.insecure_channel(address)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.fleet = fleet_pb2_grpc.FleetServiceStub(self.channel)

    def open(
        self, token_ids: tuple[int, ...] = (1, 2), *, tenant: str = "", **fields: object
    ) -> grpc.aio.UnaryStreamCall:
        """Begins a request."""
        metadata = (("multitude-tenant", tenant),) if tenant else ()
        prompt = generation_pb2.Prompt(token_ids=generation_pb2.TokenIds(ids=token_ids))
        return self.generation.Generate(
            generation_pb2.GenerateRequest(**{"prompt": prompt} | fields), timeout=TIMEOUT_S, metadata=metadata
        )

    async def generate(self, token_ids: tuple[int, ...] = (1, 2), **fields: object) -> Answer:
        """Runs a request to its end. Raises AioRpcError."""
        answer = Answer()
        async for message in self.open(token_ids, **fields):
            answer.add(message)
        assert answer.finished is not None
        return answer

    async def get_fleet(self) -> fleet_pb2.GetFleetResponse:
        """The fleet as the control plane sees it."""
        return await self.fleet.GetFleet(fleet_pb2.GetFleetRequest(), timeout=TIMEOUT_S)

    async def fleet_is(self, condition: Callable[[fleet_pb2.GetFleetResponse], bool]) -> fleet_pb2.GetFleetResponse:
        """Waits until the fleet is so."""

        async def holds() -> fleet_pb2.GetFleetResponse | None:
            fleet = await self.get_fleet()
            return fleet if condition(fleet) else None

        return await eventually(holds)

    async def workers_attached(self, count: int) -> None:
        """Waits for workers."""
        await self.fleet_is(lambda fleet: sum(worker.is_attached for worker in fleet.workers) == count)


async def eventually(probe: Callable[[], Awaitable[T | None]]) -> T:
    """Asks until there is an answer."""
    deadline = time.monotonic() + TIMEOUT_S
    while (answer := await probe()) is None:
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0)
    return answer


@asynccontextmanager
async def serving(model_path: Path, **settings: object) -> AsyncIterator[Caller]:
    """A control plane that polls fast, without Redis and store unless `settings` say so."""
    quick: dict[str, object] = {
        "listen": "127.0.0.1:0",
        "model": {"path": model_path},
        "redis": {"url": ""},
        "store_address": "",
        "drain_seconds": 0,
        "policy_poll_s": 0.02,
    }
    quick_workers = {"lease_poll_s": 0.02, "reconnect_first_s": 0.01, "reconnect_last_s": 0.05}
    workers = quick_workers | dict(settings.pop("workers", {}))  # type: ignore[call-overload]
    control_plane = ControlPlane(ControlPlaneConfig.model_validate({**quick, **settings, "workers": workers}))
    await control_plane.start()
    caller = Caller(control_plane.address, control_plane.metrics_address)
    try:
        yield caller
    finally:
        await caller.channel.close()
        await control_plane.stop()


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    """The ErrorInfo of a failed call."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "multitude"
    return info
