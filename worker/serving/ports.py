"""What requests need from beyond: an engine, and adapters in host memory."""

from collections.abc import Sequence
from typing import Protocol

from worker.types import AdapterRef, EngineRequest, HostedAdapter


class EnginePort(Protocol):
    """What the desk asks of the engine."""

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Gives requests to the engine."""
        ...

    def cancel(self, request_ids: Sequence[str]) -> None:
        """Asks for requests to end."""
        ...


class AdapterLease(Protocol):
    """An adapter that stays in host memory until it is released."""

    @property
    def adapter(self) -> HostedAdapter:
        """The adapter."""
        ...

    def release(self) -> None:
        """Lets it go."""
        ...


class AdapterHost(Protocol):
    """What the desk asks of the host cache."""

    def get_hosted(self, digest: str) -> AdapterLease | None:
        """Leases an adapter if it is in host memory now."""
        ...

    async def get(self, ref: AdapterRef) -> AdapterLease:
        """Brings an adapter to host memory and leases it. Cancelled, it leaves no lease. Raises WorkerError."""
        ...

    def prefetch(self, refs: Sequence[AdapterRef]) -> None:
        """Begins to bring adapters, as far as that disturbs nobody."""
        ...
