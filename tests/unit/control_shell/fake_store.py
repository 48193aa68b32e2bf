"""An adapter store's catalog on a real gRPC server."""

from types import TracebackType
from typing import Self

import grpc

from multitude.v1 import adapter_pb2, adapter_pb2_grpc


def digest(number: int) -> str:
    """A digest."""
    return f"sha256:{number:064x}"


class FakeStore(adapter_pb2_grpc.AdapterServiceServicer):
    """Lists and describes what `publish` put in."""

    def __init__(self) -> None:
        self.adapters: dict[str, adapter_pb2.Adapter] = {}
        self.address = "127.0.0.1:0"
        self.num_calls = 0

    def publish(self, adapter_id: str, number: int, *, base_model: str = "tiny") -> None:
        """Makes version `number` the adapter's newest."""
        version = adapter_pb2.AdapterVersion(digest=digest(number), rank=8, size_bytes=1000)
        known = self.adapters.get(adapter_id, adapter_pb2.Adapter())
        self.adapters[adapter_id] = adapter_pb2.Adapter(
            adapter_id=adapter_id, base_model=base_model, latest=version, versions=[version, *known.versions]
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens: on a free port the first time, on the same one again."""
        self._server = grpc.aio.server()
        adapter_pb2_grpc.add_AdapterServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        await self._server.start()

    async def stop(self) -> None:
        """Goes away."""
        await self._server.stop(None)

    async def GetAdapter(
        self, request: adapter_pb2.GetAdapterRequest, context: grpc.aio.ServicerContext
    ) -> adapter_pb2.GetAdapterResponse:
        self.num_calls += 1
        if request.adapter_id not in self.adapters:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such adapter")
        return adapter_pb2.GetAdapterResponse(adapter=self.adapters[request.adapter_id])

    async def ListAdapters(
        self, request: adapter_pb2.ListAdaptersRequest, context: grpc.aio.ServicerContext
    ) -> adapter_pb2.ListAdaptersResponse:
        if request.page_token and request.page_token not in self.adapters:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "page_token: is none of mine")
        ids = [adapter_id for adapter_id in sorted(self.adapters) if adapter_id > request.page_token]
        page, rest = ids[: request.page_size], ids[request.page_size :]
        return adapter_pb2.ListAdaptersResponse(
            adapters=[self.adapters[adapter_id] for adapter_id in page], next_page_token=page[-1] if rest else ""
        )
