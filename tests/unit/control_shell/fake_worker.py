"""A worker on a real gRPC server whose behaviour a test writes down."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

import grpc

from multitude.v1 import sampling_pb2, worker_pb2, worker_pb2_grpc

LENGTH = sampling_pb2.FINISH_REASON_LENGTH
STOP = sampling_pb2.FINISH_REASON_STOP
CANCELLED = sampling_pb2.FINISH_REASON_CANCELLED
NOT_FINISHED = sampling_pb2.FINISH_REASON_UNSPECIFIED
TIMEOUT_S = 10.0


def token(prompt: Sequence[int], index: int) -> int:
    """The token that every fake worker gives at a position of the output."""
    return (sum(prompt) + index) % 200


def text(token_ids: Sequence[int]) -> str:
    """The text of tokens."""
    return "".join(f"{token_id} " for token_id in token_ids)


class Stream:
    """One Dispatch stream, seen from the worker."""

    def __init__(self, worker: "FakeWorker", context: grpc.aio.ServicerContext) -> None:
        self._worker = worker
        self._context = context
        self._lock = asyncio.Lock()
        self.attach = worker_pb2.Attach()
        self.requests: asyncio.Queue[worker_pb2.DispatchedRequest] = asyncio.Queue()
        self.cancels: asyncio.Queue[str] = asyncio.Queue()
        self.prefetched: list[worker_pb2.AdapterRef] = []
        self.num_credits = 0
        self.has_credit = asyncio.Event()
        self.num_steps = 0
        self.ended = asyncio.Event()

    async def next_request(self) -> worker_pb2.DispatchedRequest:
        """The next request that came."""
        return await asyncio.wait_for(self.requests.get(), TIMEOUT_S)

    async def next_cancel(self) -> str:
        """The next request that was cancelled."""
        return await asyncio.wait_for(self.cancels.get(), TIMEOUT_S)

    async def send_status(self, **fields: object) -> None:
        """Reports; unset fields are those of an idle worker with a large pool."""
        await self._write(worker_pb2.DispatchResponse(status=self._worker.status(**fields)))

    async def send_step(
        self,
        *outputs: worker_pb2.SequenceOutput,
        failures: Sequence[worker_pb2.RequestFailure] = (),
    ) -> None:
        """Sends one step message, for a credit."""
        while not self.num_credits:
            self.has_credit.clear()
            await asyncio.wait_for(self.has_credit.wait(), TIMEOUT_S)
        self.num_credits -= 1
        self.num_steps += 1
        step = worker_pb2.StepOutput(outputs=outputs, failures=failures)
        await self._write(worker_pb2.DispatchResponse(step=step))

    async def send_tokens(
        self, request: worker_pb2.DispatchedRequest, start: int, end: int, finish_reason: int = NOT_FINISHED
    ) -> None:
        """Sends the request's output tokens of positions [start, end)."""
        token_ids = [token(request.prompt_token_ids, index) for index in range(start, end)]
        await self.send_step(
            worker_pb2.SequenceOutput(
                request_id=request.request_id, token_ids=token_ids, text=text(token_ids), finish_reason=finish_reason
            )
        )

    async def _write(self, message: worker_pb2.DispatchResponse) -> None:
        async with self._lock:
            await self._context.write(message)

    async def serve(self, messages: AsyncIterator[worker_pb2.DispatchRequest]) -> None:
        """Takes what the control plane sends."""
        async for message in messages:
            match message.WhichOneof("message"):
                case "attach":
                    self.attach = message.attach
                    self._add_credits(message.attach.step_credit_count)
                    await self.send_status(is_residency_snapshot=True)
                    self._worker.streams.put_nowait(self)
                case "batch":
                    await self._ack(message.batch.requests)
                case "cancel":
                    self.cancels.put_nowait(message.cancel.request_id)
                case "credit":
                    self._add_credits(message.credit.step_credit_count)
                case "prefetch":
                    self.prefetched += message.prefetch.adapters

    async def _ack(self, requests: Sequence[worker_pb2.DispatchedRequest]) -> None:
        ack = worker_pb2.BatchAck(accepted_request_ids=[request.request_id for request in requests])
        await self._write(worker_pb2.DispatchResponse(ack=ack))
        for request in requests:
            self._worker.all_requests.append(request)
            if self._worker.is_generous:
                self._worker.tasks.add(asyncio.create_task(self._generate(request)))
            else:
                self.requests.put_nowait(request)

    async def _generate(self, request: worker_pb2.DispatchedRequest) -> None:
        """Gives a request all its tokens, a few in each step."""
        start = len(request.resumed_token_ids)
        while start < request.max_tokens:
            end = min(start + self._worker.tokens_per_step, request.max_tokens)
            await self.send_tokens(request, start, end, LENGTH if end == request.max_tokens else NOT_FINISHED)
            start = end

    def _add_credits(self, count: int) -> None:
        self.num_credits += count
        self.has_credit.set()


class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Answers every request at once if it `is_generous`; else a test drives its streams."""

    def __init__(
        self,
        worker_id: str,
        *,
        is_generous: bool = False,
        base_model: str = "tiny",
        window: int = 64,
        tokens_per_step: int = 3,
    ) -> None:
        self.worker_id = worker_id
        self.is_generous = is_generous
        self.base_model = base_model
        self.window = window
        self.tokens_per_step = tokens_per_step
        self.address = "127.0.0.1:0"
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.all_requests: list[worker_pb2.DispatchedRequest] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    async def start(self) -> None:
        """Listens: on a free port the first time, on the same one again."""
        self._server = grpc.aio.server()
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def kill(self) -> None:
        """Breaks every stream."""
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()
        await self._server.stop(None)

    async def next_stream(self) -> Stream:
        """The next stream that was attached."""
        return await asyncio.wait_for(self.streams.get(), TIMEOUT_S)

    def status(self, **fields: object) -> worker_pb2.WorkerStatus:
        """The status of an idle worker with a large pool, with `fields` changed."""
        idle: dict[str, object] = {
            "worker_id": self.worker_id,
            "base_model": self.base_model,
            "request_window": self.window,
            "total_page_count": 100_000,
            "free_page_count": 100_000,
            "page_size_bytes": 65_536,
            "block_size_tokens": 16,
        }
        return worker_pb2.WorkerStatus(**(idle | fields))

    def lease_json(self) -> str:
        """What the worker would write to Redis."""
        return (
            f'{{"workerId": "{self.worker_id}", "address": "{self.address}", "baseModel": "{self.base_model}",'
            ' "contextLength": 128, "startTimeMs": "1", "aFieldOfTheFuture": 1}'
        )

    async def Dispatch(
        self, request_iterator: AsyncIterator[worker_pb2.DispatchRequest], context: grpc.aio.ServicerContext
    ) -> None:
        stream = Stream(self, context)
        try:
            await stream.serve(request_iterator)
        finally:
            stream.ended.set()
