"""Brings an adapter's weights file from the store, whole and verified, or says why not."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from worker.adapters.errors import AdapterCorrupt, AdapterTooLarge, StoreUnavailable
from worker.types import AdapterRef


@dataclass(frozen=True, slots=True)
class WeightsChunk:
    """Bytes `[offset, offset + len(data))` of a file of `total_bytes`."""

    offset: int
    data: bytes
    total_bytes: int


class WeightsStore(Protocol):
    """The store, as far as a worker needs it."""

    def stream(self, digest: str, offset: int) -> AsyncGenerator[WeightsChunk, None]:
        """Streams the file of `digest` from byte `offset` on.

        Raises:
            AdapterNotFound: there is no such file.
            StoreUnavailable: the stream broke or never began; worth trying again.
            StoreFailed: not worth trying again.
        """


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of one fetch; `backoff_seconds` is the pause before the second attempt and doubles with each more."""

    max_bytes: int
    max_attempts: int
    backoff_seconds: float
    deadline_seconds: float


class Fetcher:
    """Fetches by digest: a stream that breaks is resumed where it broke, and what came is hashed as it comes."""

    def __init__(
        self, store: WeightsStore, limits: FetchLimits, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._store = store
        self._limits = limits
        self._sleep = sleep

    async def fetch(self, ref: AdapterRef) -> bytes:
        """The canonical weights file.

        Raises:
            AdapterNotFound: the store does not have it.
            AdapterCorrupt: what came does not have the digest.
            AdapterTooLarge: it is larger than the limit.
            StoreUnavailable: every attempt failed, or the deadline passed.
            StoreFailed: the store answered with another error.
        """
        download = _Download(ref.digest, self._limits.max_bytes)
        try:
            async with asyncio.timeout(self._limits.deadline_seconds):
                await self._complete(download)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"{download.received} bytes of {ref.digest} came from the adapter store in "
                f"{self._limits.deadline_seconds:g} s, and not the rest"
            ) from error
        return download.content()

    async def _complete(self, download: "_Download") -> None:
        pause = self._limits.backoff_seconds
        for attempt in range(1, self._limits.max_attempts + 1):
            try:
                await self._resume(download)
            except StoreUnavailable as error:
                if attempt == self._limits.max_attempts:
                    raise StoreUnavailable(f"{error.message} (attempt {attempt}, the last)") from error
                await self._sleep(pause)
                pause *= 2
            else:
                return

    async def _resume(self, download: "_Download") -> None:
        async with aclosing(self._store.stream(download.digest, download.received)) as chunks:
            async for chunk in chunks:
                await download.add(chunk)
        if not download.is_complete:
            raise StoreUnavailable(f"the adapter store ended its stream after {download.received} bytes")


class _Download:
    """What has come so far of one file."""

    def __init__(self, digest: str, max_bytes: int) -> None:
        self.digest = digest
        self.received = 0
        self._max_bytes = max_bytes
        self._total_bytes: int | None = None
        self._chunks: list[bytes] = []
        self._hash = hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        return self.received == self._total_bytes

    async def add(self, chunk: WeightsChunk) -> None:
        if chunk.total_bytes > self._max_bytes:
            raise AdapterTooLarge(
                f"{self.digest} has {chunk.total_bytes} bytes and this worker takes {self._max_bytes} at most"
            )
        if self._total_bytes not in (None, chunk.total_bytes):
            raise AdapterCorrupt(
                f"the store says that {self.digest} has {self._total_bytes} and {chunk.total_bytes} bytes"
            )
        self._total_bytes = chunk.total_bytes
        if chunk.offset != self.received or chunk.offset + len(chunk.data) > chunk.total_bytes:
            raise AdapterCorrupt(
                f"the store sent {len(chunk.data)} bytes at {chunk.offset} of {self.digest}, of which "
                f"{self.received} of {chunk.total_bytes} bytes had come"
            )
        self._chunks.append(chunk.data)
        self.received += len(chunk.data)
        await asyncio.to_thread(self._hash.update, chunk.data)  # a millisecond or two, which tokens need not wait for

    def content(self) -> bytes:
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self.digest:
            raise AdapterCorrupt(f"the store sent {actual} for {self.digest}: publish the adapter again")
        return b"".join(self._chunks)
