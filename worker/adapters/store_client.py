"""The adapter store over gRPC, as the fetcher sees it."""

from collections.abc import AsyncGenerator

import grpc
import grpc.aio

from multitude.v1 import adapter_pb2, adapter_pb2_grpc
from worker.adapters.errors import AdapterNotFound, StoreFailed, StoreUnavailable
from worker.adapters.fetcher import WeightsChunk
from worker.errors import WorkerError

# A server that shuts down cancels its streams.
_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class GrpcWeightsStore:
    """Streams weights with AdapterService.FetchWeights."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = adapter_pb2_grpc.AdapterServiceStub(channel)

    async def stream(self, digest: str, offset: int) -> AsyncGenerator[WeightsChunk, None]:
        """Streams the file of `digest` from byte `offset` on; errors as WeightsStore has them."""
        call = self._stub.FetchWeights(adapter_pb2.FetchWeightsRequest(digest=digest, offset_bytes=offset))
        try:
            async for message in call:
                yield WeightsChunk(message.offset_bytes, message.data, message.total_size_bytes)
        except grpc.aio.AioRpcError as error:
            raise _from_status(error, digest) from error
        finally:
            call.cancel()


def _from_status(error: grpc.aio.AioRpcError, digest: str) -> WorkerError:
    code, details = error.code(), error.details()
    if code == grpc.StatusCode.NOT_FOUND:
        return AdapterNotFound(f"the adapter store has no weights {digest}: it was deleted, or never published there")
    if code in _TRANSIENT:
        return StoreUnavailable(f"the adapter store cannot be reached: {details}")
    return StoreFailed(f"the adapter store refused to send {digest}: {code.name}: {details}")
