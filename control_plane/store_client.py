"""The adapter store over gRPC, as the catalog's source."""

from typing import Final

import grpc

from control_plane.catalog import CatalogEntry, CatalogPage
from control_plane.core.types import AdapterRef
from control_plane.errors import PageInvalid, StoreUnavailable
from multitude.v1 import adapter_pb2, adapter_pb2_grpc

RETRY_AFTER_S: Final = 1.0


class StoreClient:
    """Asks one adapter store; each call has a deadline."""

    def __init__(self, address: str, *, timeout_s: float, max_message_bytes: int) -> None:
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                # A store that comes back is found within a second; the default backs off to two minutes.
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._stub = adapter_pb2_grpc.AdapterServiceStub(self._channel)

    async def get(self, adapter_id: str) -> CatalogEntry | None:
        """The adapter with all its versions, or None if there is none of that id. Raises StoreUnavailable."""
        try:
            response = await self._stub.GetAdapter(
                adapter_pb2.GetAdapterRequest(adapter_id=adapter_id), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise _unavailable(error) from error
        adapter = response.adapter
        return _entry(adapter, adapter.versions or [adapter.latest])

    async def list_page(self, page_size: int, page_token: str) -> CatalogPage:
        """One page of adapters with their newest versions. Raises StoreUnavailable, PageInvalid."""
        try:
            response = await self._stub.ListAdapters(
                adapter_pb2.ListAdaptersRequest(page_size=page_size, page_token=page_token), timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise PageInvalid("page_token", error.details() or "is not one that the store gave") from error
            raise _unavailable(error) from error
        return CatalogPage(
            entries=tuple(_entry(adapter, [adapter.latest]) for adapter in response.adapters),
            next_page_token=response.next_page_token,
        )

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()


def _entry(adapter: adapter_pb2.Adapter, versions: list[adapter_pb2.AdapterVersion]) -> CatalogEntry:
    return CatalogEntry(
        adapter_id=adapter.adapter_id,
        base_model=adapter.base_model,
        versions=tuple(
            AdapterRef(
                adapter_id=adapter.adapter_id,
                digest=version.digest,
                rank=version.rank,
                size_bytes=version.size_bytes,
            )
            for version in versions
        ),
    )


def _unavailable(error: grpc.aio.AioRpcError) -> StoreUnavailable:
    return StoreUnavailable(
        f"the adapter store does not answer ({error.code().name}: {error.details()})", retry_after_s=RETRY_AFTER_S
    )
