"""The adapter store as a gRPC service."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from adapter_store import codec
from adapter_store.base_model import load_base_model
from adapter_store.config import Config
from adapter_store.edge import Context, typed_errors
from adapter_store.errors import ConfigInvalid
from adapter_store.intake import Intake
from adapter_store.library import Library
from adapter_store.sources import copy_source
from adapter_store.threads import Threads
from adapter_store.upload import receive
from multitude.v1 import adapter_pb2 as pb
from multitude.v1 import adapter_pb2_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["AdapterService"].full_name
CHUNK_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 16 << 20
MAX_PENDING_CALLS = 65_536

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class AdapterService(adapter_pb2_grpc.AdapterServiceServicer):
    """Every call: read the request, ask the library in a thread, answer; errors leave typed."""

    def __init__(self, config: Config, library: Library, intake: Intake, reading: Threads, publishing: Threads) -> None:
        self._config = config
        self._library = library
        self._intake = intake
        self._reading = reading
        self._publishing = publishing

    async def CreateAdapter(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.CreateAdapterRequest], context: Context
    ) -> pb.CreateAdapterResponse:
        """See adapter.proto."""
        async with typed_errors(context), self._intake.slot() as folder:
            parts = codec.upload_parts(request_iterator)
            header = await receive(parts, folder, self._config.limits, self._reading)
            publication = await self._publishing.run(
                self._library.publish, header.adapter_id, folder, header.base_model
            )
            return codec.create_response(publication, self._library.model)

    async def ImportAdapter(self, request: pb.ImportAdapterRequest, context: Context) -> pb.ImportAdapterResponse:  # noqa: N802
        """See adapter.proto."""
        async with typed_errors(context):
            adapter_id = codec.adapter_id(request.adapter_id)
            async with self._intake.slot() as folder:
                roots, limits = self._config.import_roots, self._config.limits
                await self._publishing.run(copy_source, request.source_uri, roots, folder, limits)
                publication = await self._publishing.run(self._library.publish, adapter_id, folder, request.base_model)
            return codec.import_response(publication, self._library.model)

    async def GetAdapter(self, request: pb.GetAdapterRequest, context: Context) -> pb.GetAdapterResponse:  # noqa: N802
        """See adapter.proto."""
        async with typed_errors(context):
            adapter = await self._reading.run(self._library.get, codec.adapter_id(request.adapter_id))
            return pb.GetAdapterResponse(adapter=codec.adapter(adapter, self._library.model, with_versions=True))

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.ListAdaptersResponse:  # noqa: N802
        """See adapter.proto."""
        async with typed_errors(context):
            asked = codec.listing(request)
            page = await self._reading.run(self._library.page, asked.after, asked.prefix, asked.size)
            return codec.list_response(page, asked, self._library.model)

    async def DeleteAdapter(self, request: pb.DeleteAdapterRequest, context: Context) -> pb.DeleteAdapterResponse:  # noqa: N802
        """See adapter.proto."""
        async with typed_errors(context):
            adapter_id = codec.adapter_id(request.adapter_id)
            digest = codec.digest(request.digest) if request.digest else None
            num_deleted = await self._reading.run(self._library.delete, adapter_id, digest)
            return pb.DeleteAdapterResponse(deleted_version_count=num_deleted)

    async def FetchWeights(  # noqa: N802
        self, request: pb.FetchWeightsRequest, context: Context
    ) -> AsyncIterator[pb.FetchWeightsResponse]:
        """See adapter.proto; at the end of the file one message without data says so."""
        async with typed_errors(context):
            reader = await self._reading.run(self._library.open_weights, codec.digest(request.digest))
            try:
                offset = codec.offset(request.offset_bytes, reader.size_bytes)
                while True:
                    data = await self._reading.run(reader.read, offset, CHUNK_BYTES)
                    yield pb.FetchWeightsResponse(offset_bytes=offset, data=data, total_size_bytes=reader.size_bytes)
                    offset += len(data)
                    if offset >= reader.size_bytes or not data:
                        return
            finally:
                reader.close()


class AdapterStore:
    """The running store: folder, threads and server, from `start` to `stop`."""

    def __init__(self, config: Config, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        """Opens everything but the port.

        Raises:
            ConfigInvalid: The base model or the folder cannot be used.
        """
        self._config = config
        limits = config.limits
        self._library = Library(config.data_dir, load_base_model(config.model), limits, now_us)
        self._reading = Threads(config.io_threads, "read")
        self._publishing = Threads(limits.max_concurrent_uploads, "publish")
        self._intake = Intake(Path(config.data_dir) / "uploads", limits.max_concurrent_uploads, self._reading)
        service = AdapterService(config, self._library, self._intake, self._reading, self._publishing)
        self._health = HealthServicer()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=limits.max_concurrent_rpcs,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                # gRPC drops calls of a burst at random beyond the first number; the limit above refuses them by name.
                ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            ],
        )
        adapter_pb2_grpc.add_AdapterServiceServicer_to_server(service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE_NAME, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server
        )

    async def start(self) -> str:
        """Serves; returns the `host:port` that it serves on.

        Raises:
            ConfigInvalid: The port cannot be had.
        """
        try:
            port = self._server.add_insecure_port(self._config.listen)
        except RuntimeError:
            await self.stop()
            raise ConfigInvalid(f"listen: {self._config.listen} cannot be served on; is it in use?") from None
        await self._server.start()
        await self._report(serving=True)
        return f"{self._config.listen.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Takes no more calls, gives those in flight `drain_seconds`, and closes everything."""
        await self._report(serving=False)
        await self._server.stop(self._config.drain_seconds)
        await self._intake.wait_empty()
        for threads in (self._publishing, self._reading):
            await asyncio.to_thread(threads.close)
        self._library.close()

    async def _report(self, *, serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)


async def serve(config: Config) -> None:
    """Runs the store until SIGTERM or SIGINT. Raises ConfigInvalid if it cannot start."""
    store = AdapterStore(config)
    address = await store.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    sys.stdout.write(f"ready adapter_store {address}\n")
    sys.stdout.flush()
    await stopping.wait()
    log.info("stopping")
    await store.stop()
