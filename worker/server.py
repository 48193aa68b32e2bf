"""The worker's gRPC server: one Dispatch stream for each control plane."""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from multitude.v1 import worker_pb2, worker_pb2_grpc
from worker import codec
from worker.config import WorkerConfig
from worker.errors import BaseModelMismatchError, ListenFailedError, RequestInvalidError, StreamNotAttachedError
from worker.serving.desk import RequestDesk
from worker.serving.status import StatusBoard
from worker.serving.stream import DispatchStream

SERVICE_NAME = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name

_log = logging.getLogger("worker.server")

_MIN_PING_INTERVAL_MS = 1000  # control planes may ask that often whether this worker is there

_Messages = AsyncIterator[worker_pb2.DispatchRequest]
_Context = grpc.aio.ServicerContext[worker_pb2.DispatchRequest, worker_pb2.DispatchResponse]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """WorkerService over one request desk."""

    def __init__(self, desk: RequestDesk, status: StatusBoard, base_model: str) -> None:
        self._desk = desk
        self._status = status
        self._base_model = base_model

    async def Dispatch(self, request_iterator: _Messages, context: _Context) -> None:  # noqa: N802
        """Serves one control plane until either side ends the stream; an error becomes the stream's status."""
        try:
            await self._serve(aiter(request_iterator), context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the process stays up
            typed = codec.typed(error)
            if typed is not error:
                _log.exception("a Dispatch stream broke")
            await codec.abort(context, typed)

    async def _serve(self, messages: _Messages, context: _Context) -> None:
        """A control plane attaches; then its requests come in and tokens go out; what is left at the end ends too."""
        stream = await self._attach(messages)
        hearing = asyncio.create_task(self._hear(stream, messages))
        try:
            await self._tell(stream, context)
            if hearing.done():
                await hearing
        finally:
            hearing.cancel()
            self._desk.close_stream(stream)
            _log.info("control plane %s left", stream.control_plane_id)

    async def _attach(self, messages: _Messages) -> DispatchStream:
        first = await anext(messages, None)
        if first is None or first.WhichOneof("message") != "attach":
            raise StreamNotAttachedError("the stream's first message must be attach", field="attach")
        attach = first.attach
        if attach.base_model != self._base_model:
            raise BaseModelMismatchError(
                f"this worker serves {self._base_model}, and the control plane {attach.base_model[:200]!r}: give both "
                "the same model, or set model.name",
                field="attach.base_model",
            )
        if attach.step_credit_count < 1:
            raise RequestInvalidError("step_credit_count must be at least 1", field="attach.step_credit_count")
        if self._desk.refusal is not None:
            raise self._desk.refusal
        _log.info("control plane %s attached", attach.control_plane_id)
        return self._desk.open_stream(attach.control_plane_id, step_credits=attach.step_credit_count)

    async def _hear(self, stream: DispatchStream, messages: _Messages) -> None:
        """Does what the control plane asks until it ends the stream."""
        try:
            async for message in messages:
                match message.WhichOneof("message"):
                    case "batch":
                        self._desk.accept(stream, [codec.request_from_proto(item) for item in message.batch.requests])
                    case "cancel":
                        self._desk.cancel(stream, message.cancel.request_id)
                    case "credit":
                        stream.add_credits(message.credit.step_credit_count)
                    case "prefetch":
                        self._desk.prefetch([codec.adapter_from_proto(item) for item in message.prefetch.adapters])
                    case "attach":
                        raise StreamNotAttachedError("the stream is attached already", field="attach")
                    case _:
                        _log.warning("passed over a message of a kind that this worker does not know")
        finally:
            stream.close()

    async def _tell(self, stream: DispatchStream, context: _Context) -> None:
        """Sends what there is to send, the worker's whole state first, until the stream ends."""
        while not stream.is_closed:
            message = stream.next_message(self._status.read)
            if message is not None:
                await context.write(message)
            elif self._desk.refusal is not None and stream.is_idle:
                raise self._desk.refusal
            else:
                await stream.news()


class WorkerServer:
    """The servicer behind a port, with health and reflection."""

    def __init__(self, servicer: WorkerServicer, config: WorkerConfig) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", config.max_message_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", int(config.keepalive_interval_s * 1000)),
                ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout_s * 1000)),
                ("grpc.http2.min_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
            ]
        )
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, self._server)
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self._listen = config.listen

    async def start(self) -> str:
        """Begins to serve and returns the address, with the port that was really taken.

        Raises:
            ListenFailedError: The address is not this machine's, or somebody else has the port.
        """
        try:
            port = self._server.add_insecure_port(self._listen)
        except RuntimeError:
            raise ListenFailedError(
                f"cannot listen on {self._listen}: set listen to an address of this machine and a free port "
                "(port 0 takes one)",
                field="listen",
            ) from None
        await self._server.start()
        await self.set_serving(serving=True)
        return f"{self._listen.rpartition(':')[0]}:{port}"

    async def set_serving(self, *, serving: bool) -> None:
        """Says to health checks whether new requests are taken."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self) -> None:
        """Ends every stream and call."""
        await self._server.stop(grace=None)
