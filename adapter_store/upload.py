"""An upload on its way in: parts of a stream become files of a folder, each exactly as long as announced."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from adapter_store.config import Limits
from adapter_store.errors import (
    AdapterNotSafetensors,
    AdapterTooLarge,
    RequestInvalid,
    UploadIncomplete,
    UploadStalled,
)
from adapter_store.peft.config import CONFIG_NAME
from adapter_store.peft.directory import FILE_NAMES
from adapter_store.threads import Threads

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_DATA_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class UploadHeader:
    """What is uploaded, and the base model's name as the publisher gave it, if at all."""

    adapter_id: str
    base_model: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """A file begins."""

    name: str
    size_bytes: int


UploadPart = UploadHeader | FileStart | bytes


async def receive(parts: AsyncIterator[UploadPart], folder: Path, limits: Limits, threads: Threads) -> UploadHeader:
    """Writes an upload's files into `folder`, which the caller removes, and returns once all are there in full.

    Raises:
        RequestInvalid: The parts do not come in the order that adapter.proto asks for.
        UploadIncomplete: The stream ended early.
        UploadStalled: Nothing came for too long, or the upload took too long.
        AdapterTooLarge: A file is announced as longer than allowed.
        AdapterNotSafetensors: A file is a pickle.
    """
    spool = _Spool(folder, limits)
    try:
        async with asyncio.timeout(limits.upload_timeout_s):
            header = await _next(parts, limits)
            if header is None:
                raise UploadIncomplete("the stream ended before its header", field="header")
            if not isinstance(header, UploadHeader):
                raise RequestInvalid("an upload begins with its header", field="header")
            while (part := await _next(parts, limits)) is not None:
                await threads.run(spool.take, part)
    except TimeoutError:
        raise UploadStalled(f"the upload took longer than {limits.upload_timeout_s} s; upload it again") from None
    finally:
        spool.close()
    spool.require_complete()
    return header


async def _next(parts: AsyncIterator[UploadPart], limits: Limits) -> UploadPart | None:
    try:
        async with asyncio.timeout(limits.upload_idle_timeout_s):
            return await anext(parts, None)
    except TimeoutError:
        raise UploadStalled(f"nothing came for {limits.upload_idle_timeout_s} s; upload the adapter again") from None


def require_known_file(name: str) -> None:
    """Checks the name of a file of a PEFT directory.

    Raises:
        AdapterNotSafetensors: It is a pickle's.
        RequestInvalid: It is none of the two that count.
    """
    if name.lower().endswith(PICKLE_SUFFIXES):
        raise AdapterNotSafetensors(
            f"{name!r} is a pickle, which can run code; save the adapter with safe_serialization=True",
            field="file.name",
        )
    if name not in FILE_NAMES:
        raise RequestInvalid(
            f"{name!r} is not a file of an adapter; send {' and '.join(FILE_NAMES)}", field="file.name"
        )


class _Spool:
    """The files of one upload; one is open at a time."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits
        self._open: BinaryIO | None = None
        self._current = FileStart("", 0)
        self._missing_bytes = 0
        self._received: set[str] = set()

    def take(self, part: UploadPart) -> None:
        match part:
            case UploadHeader():
                raise RequestInvalid("an upload has one header", field="header")
            case FileStart():
                self._begin(part)
            case bytes():
                self._append(part)

    def require_complete(self) -> None:
        self._require_file_complete()
        missing = [name for name in FILE_NAMES if name not in self._received]
        if missing:
            raise UploadIncomplete(f"the stream ended without {' and '.join(missing)}; send both files", field="file")

    def close(self) -> None:
        if self._open is not None:
            self._open.close()

    def _begin(self, start: FileStart) -> None:
        self._require_file_complete()
        require_known_file(start.name)
        if start.name in self._received:
            raise RequestInvalid(f"{start.name} came twice; send it once", field="file.name")
        if start.size_bytes < 0:
            raise RequestInvalid(f"{start.name} has a negative size", field="file.size_bytes")
        is_config = start.name == CONFIG_NAME
        most = self._limits.max_config_bytes if is_config else self._limits.max_adapter_bytes
        if start.size_bytes > most:
            raise AdapterTooLarge(
                f"{start.name} has {start.size_bytes} bytes, more than the {most} allowed", field="file.size_bytes"
            )
        self.close()
        self._open = (self._folder / start.name).open("xb")
        self._current = start
        self._missing_bytes = start.size_bytes
        self._received.add(start.name)

    def _append(self, data: bytes) -> None:
        if self._open is None:
            raise RequestInvalid("data comes after the file that it belongs to", field="data")
        if len(data) > MAX_DATA_BYTES:
            raise RequestInvalid(f"data holds {len(data)} bytes, more than {MAX_DATA_BYTES}; cut it", field="data")
        if len(data) > self._missing_bytes:
            raise RequestInvalid(
                f"{self._current.name} is longer than its size of {self._current.size_bytes} bytes", field="data"
            )
        self._open.write(data)
        self._missing_bytes -= len(data)

    def _require_file_complete(self) -> None:
        if self._missing_bytes:
            raise UploadIncomplete(
                f"{self._current.name} ended {self._missing_bytes} bytes before its size of "
                f"{self._current.size_bytes}; upload the adapter again",
                field="file.size_bytes",
            )
