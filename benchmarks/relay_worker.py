"""A worker that computes nothing: a token a step for every sequence, at a given pace, under the Dispatch contract."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from multitude.v1 import sampling_pb2, worker_pb2, worker_pb2_grpc

# Tokens count up from 0 in every stream, and come round here, so that clients can see what is lost or doubled.
CYCLE = 200


class _Stream:
    """One control plane's sequences: a token each at every beat, joined while there is no credit to send them."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._written: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._limit: dict[str, int] = {}
        self._num_credits = 0
        self._lock = asyncio.Lock()

    def add_credits(self, count: int) -> None:
        self._num_credits += count

    def add(self, request: worker_pb2.DispatchedRequest) -> None:
        self._written[request.request_id] = self._sent[request.request_id] = len(request.resumed_token_ids)
        self._limit[request.request_id] = request.max_tokens

    def cancel(self, request_id: str) -> None:
        if request_id in self._limit:
            self._limit[request_id] = self._sent[request_id]

    async def beat(self) -> None:
        """One engine step, and a message with everything unsent if there is a credit."""
        for request_id, limit in self._limit.items():
            self._written[request_id] = min(self._written[request_id] + 1, limit)
        if self._num_credits < 1 or not self._limit:
            return
        self._num_credits -= 1
        step = worker_pb2.StepOutput()
        for request_id, limit in list(self._limit.items()):
            start, end = self._sent[request_id], self._written[request_id]
            token_ids = [index % CYCLE for index in range(start, end)]
            output = step.outputs.add(request_id=request_id, token_ids=token_ids, text="word " * (end - start))
            self._sent[request_id] = end
            if end >= limit:
                output.finish_reason = sampling_pb2.FINISH_REASON_LENGTH
                for table in (self._written, self._sent, self._limit):
                    del table[request_id]
        await self.write(worker_pb2.DispatchResponse(step=step))

    async def write(self, message: worker_pb2.DispatchResponse) -> None:
        async with self._lock:
            await self._context.write(message)


class PacedWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Steps at a fixed pace, whoever listens."""

    def __init__(self, worker_id: str, base_model: str, window: int) -> None:
        self._status = worker_pb2.WorkerStatus(
            worker_id=worker_id,
            base_model=base_model,
            request_window=window,
            total_page_count=1_000_000,
            free_page_count=1_000_000,
            page_size_bytes=1 << 16,
            block_size_tokens=16,
            is_residency_snapshot=True,
        )
        self._streams: set[_Stream] = set()

    async def step_forever(self, interval_s: float) -> None:
        """Keeps to the clock, and skips what it is late for."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            await asyncio.gather(*(stream.beat() for stream in list(self._streams)), return_exceptions=True)

    async def Dispatch(  # noqa: N802
        self, request_iterator: AsyncIterator[worker_pb2.DispatchRequest], context: Any
    ) -> None:
        """Follows the contract of worker.proto."""
        stream = _Stream(context)
        self._streams.add(stream)
        try:
            async for message in request_iterator:
                match message.WhichOneof("message"):
                    case "attach":
                        stream.add_credits(message.attach.step_credit_count)
                        await stream.write(worker_pb2.DispatchResponse(status=self._status))
                    case "batch":
                        ids = [request.request_id for request in message.batch.requests]
                        await stream.write(
                            worker_pb2.DispatchResponse(ack=worker_pb2.BatchAck(accepted_request_ids=ids))
                        )
                        for request in message.batch.requests:
                            stream.add(request)
                    case "cancel":
                        stream.cancel(message.cancel.request_id)
                    case "credit":
                        stream.add_credits(message.credit.step_credit_count)
        finally:
            self._streams.discard(stream)


async def _serve(worker_id: str, base_model: str, window: int, interval_s: float) -> None:
    server = grpc.aio.server()
    worker = PacedWorker(worker_id, base_model, window)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready worker 127.0.0.1:{port}", flush=True)
    await worker.step_forever(interval_s)


def main() -> int:
    """Runs until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker-id", default="paced")
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--step-ms", type=float, required=True)
    options = parser.parse_args()
    asyncio.run(_serve(options.worker_id, options.base_model, options.window, options.step_ms / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
