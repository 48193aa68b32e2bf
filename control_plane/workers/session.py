"""One Dispatch stream, from its attach to its end."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from control_plane.core.types import AdapterRef, DispatchedRequest, Event, WorkerLost, WorkerReported, WorkerStatus
from control_plane.runtime.driver import WorkerLink
from control_plane.workers import codec
from control_plane.workers.pacing import CreditPacer
from multitude.v1 import worker_pb2

logger = logging.getLogger(__name__)

DispatchCall = Any  # grpc.aio.StreamStreamCall; its stubs leave the stream's end open.


class Fleet(Protocol):
    """Where a session's events go."""

    def attach(self, worker_id: str, link: WorkerLink) -> bool:
        """Makes a link the way to a worker; False if the worker has one already."""

    def detach(self, worker_id: str, link: WorkerLink) -> None:
        """Takes the link away."""

    def report(self, event: Event) -> None:
        """Something happened on a worker."""


class SessionRefused(Exception):
    """The worker cannot be used as it is; the message says why."""


class WorkerSession:
    """A WorkerLink over one stream. The worker becomes known with the first status and is lost when the stream ends.

    What waits to be sent is bounded: requests by the window, cancels by the requests, credits by the steps.
    """

    def __init__(self, call: DispatchCall, *, fleet: Fleet, pacer: CreditPacer) -> None:
        self._call = call
        self._fleet = fleet
        self._pacer = pacer
        self._outgoing: deque[worker_pb2.DispatchRequest] = deque()
        self._has_outgoing = asyncio.Event()
        # The worker's last status; None until it attached.
        self.status: WorkerStatus | None = None

    def send_batch(self, requests: Sequence[DispatchedRequest], prefetch: Sequence[AdapterRef]) -> None:
        """Queues requests, behind the hint which adapters are worth fetching."""
        if prefetch:
            self._send(codec.encode_prefetch(prefetch))
        if requests:
            self._send(codec.encode_batch(requests))

    def send_cancel(self, request_id: str) -> None:
        """Queues a cancel."""
        self._send(codec.encode_cancel(request_id))

    async def run(self, attach: worker_pb2.DispatchRequest) -> None:
        """Attaches and serves until the stream ends. Raises AioRpcError, SessionRefused."""
        await self._call.write(attach)
        writer = asyncio.create_task(self._write())
        try:
            async for message in self._call:
                self._on_message(message)
        finally:
            writer.cancel()
            if self.status is not None:
                self._fleet.detach(self.status.worker_id, self)
                self._fleet.report(WorkerLost(self.status.worker_id))

    def _on_message(self, message: worker_pb2.DispatchResponse) -> None:
        match message.WhichOneof("message"):
            case "status":
                self._on_status(codec.decode_status(message.status))
            case "step" if self.status is not None:
                self._fleet.report(codec.decode_step(self.status.worker_id, message.step))
                self._return_credit()
            case "ack" if self.status is not None:
                self._fleet.report(codec.decode_ack(self.status.worker_id, message.ack))
            case kind:
                raise SessionRefused(f"the worker sent {kind or 'nothing'} where its first status was due")

    def _on_status(self, status: WorkerStatus) -> None:
        if self.status is None:
            if not status.worker_id:
                raise SessionRefused("the worker has no id; set its worker_id")
            if not self._fleet.attach(status.worker_id, self):
                raise SessionRefused(
                    f"worker {status.worker_id!r} is attached on another address; give each worker its own id"
                )
            logger.info("worker %s is attached", status.worker_id)
        elif status.worker_id != self.status.worker_id:
            raise SessionRefused(f"worker {self.status.worker_id!r} now says that it is {status.worker_id!r}")
        self.status = status
        self._fleet.report(WorkerReported(status))

    def _return_credit(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = self._pacer.delay(loop.time(), time.process_time())
        if delay_s > 0:
            loop.call_later(delay_s, self._send, codec.encode_credit(1))
        else:
            self._send(codec.encode_credit(1))

    def _send(self, message: worker_pb2.DispatchRequest) -> None:
        self._outgoing.append(message)
        self._has_outgoing.set()

    async def _write(self) -> None:
        """Writes what is queued, in order. Where the stream is broken it just ends: the reader finds out why."""
        try:
            while True:
                await self._has_outgoing.wait()
                self._has_outgoing.clear()
                while self._outgoing:
                    await self._call.write(self._outgoing.popleft())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return
