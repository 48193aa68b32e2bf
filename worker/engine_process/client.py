"""The server process's side: starts the engine process, gives it work, hears its steps, notices its end."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

from worker.engine_process.frames import FrameBuffer, encode_frame
from worker.engine_process.messages import BuildEngine, Cancel, EngineFacts, EngineFailed, EngineReady, Submit
from worker.errors import EngineCrashedError, EngineStartError, WorkerError
from worker.types import EngineRequest, StepResult

_TREE = Path(__file__).resolve().parents[2]  # where `python -m worker...` finds this package
_EXIT_SECONDS = 5.0  # an engine process whose socket closed ends at once, unless a kernel call holds it


class EngineListener(Protocol):
    """Who hears of the engine; called on the event loop."""

    def on_step(self, result: StepResult) -> None:
        """A step ended."""
        ...

    def on_engine_lost(self, error: WorkerError) -> None:
        """The engine process is gone, and will not come back."""
        ...


class EngineClient(asyncio.Protocol):
    """The engine process, seen from the server process. Made by `launch`, then given an engine by `build`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._frames = FrameBuffer()
        self._listener: EngineListener | None = None
        self._ready: asyncio.Future[EngineFacts] = asyncio.get_running_loop().create_future()
        self._facts: EngineFacts | None = None
        self._closed = asyncio.Event()
        self._closing = False

    @classmethod
    async def launch(cls, *, preload: str = "", descriptors: Sequence[int] = ()) -> Self:
        """Starts the process, which waits for `build`.

        Args:
            preload: A module that `build` will need; the process imports it meanwhile.
            descriptors: Files that it inherits, under the same numbers.
        """
        client = cls()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "worker.engine_process", str(theirs.fileno()), *([preload] if preload else [])]
        # A session of its own: Ctrl-C on the terminal is for the server process, which drains first.
        client._process = subprocess.Popen(  # noqa: ASYNC220
            command,
            cwd=_TREE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), *descriptors),
            start_new_session=True,
        )
        theirs.close()
        await asyncio.get_running_loop().create_connection(lambda: client, sock=ours)
        return client

    async def build(self, build: BuildEngine, *, timeout_s: float) -> None:
        """Waits until the engine is built; close the client if it is not.

        Raises:
            EngineStartError: The process ended or was not ready in time.
            WorkerError: What `build` raised there.
        """
        self._send(build)
        try:
            async with asyncio.timeout(timeout_s):
                self._facts = await self._ready
        except TimeoutError:
            raise EngineStartError(f"the engine was not ready after {timeout_s:.0f} s") from None

    @property
    def facts(self) -> EngineFacts:
        """What the engine said of itself."""
        assert self._facts is not None
        return self._facts

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def listen(self, listener: EngineListener) -> None:
        """Names the one who hears of steps from here on, and of the engine's end if that has come already."""
        self._listener = listener
        if self._closed.is_set() and not self._closing:
            self._report_loss(listener)

    def submit(self, requests: Sequence[EngineRequest]) -> None:
        """Gives requests to the engine; each ends with a finish reason or a failure in some step."""
        if requests:
            self._send(Submit(tuple(requests)))

    def cancel(self, request_ids: Sequence[str]) -> None:
        """Asks for requests to end; those that ended before are passed over."""
        if request_ids:
            self._send(Cancel(tuple(request_ids)))

    async def wait_gone(self) -> None:
        """Waits until the process has ended, or closed its socket."""
        await self._closed.wait()

    async def close(self) -> None:
        """Ends the process and waits until it is gone."""
        self._closing = True
        assert self._process is not None
        if self._facts is None:
            self._process.kill()  # it may be in the middle of an import, and has nothing to lose
        if self._transport is not None:
            self._transport.abort()
            await self._closed.wait()
        if not self._ready.cancelled():
            self._ready.exception()  # was told by `build`, or nobody asks any more
        await asyncio.to_thread(self._reap)

    # --- asyncio.Protocol -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is up."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Something came from the engine."""
        for message in self._frames.feed(data):
            if isinstance(message, StepResult):
                assert self._listener is not None
                self._listener.on_step(message)
            elif self._ready.done():
                continue
            elif isinstance(message, EngineReady):
                self._ready.set_result(message.facts)
            elif isinstance(message, EngineFailed):
                self._ready.set_exception(message.error)

    def connection_lost(self, _error: Exception | None) -> None:
        """The process is gone."""
        self._closed.set()
        if self._closing:
            self._ready.cancel()
        elif not self._ready.done():
            self._ready.set_exception(EngineStartError(f"the engine {self._ending()} before it was ready"))
        elif self._listener is not None:
            self._report_loss(self._listener)

    # --- mechanism ------------------------------------------------------------------------------------------------

    def _send(self, message: object) -> None:
        if self._transport is not None and not self._closed.is_set():
            self._transport.write(encode_frame(message))

    def _report_loss(self, listener: EngineListener) -> None:
        listener.on_engine_lost(EngineCrashedError(f"the engine {self._ending()}; try again on another worker"))

    def _ending(self) -> str:
        """How the process ended, in words. Its socket closes just before it can be waited for."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=0.5)
            return f"process was killed by signal {-code}" if code < 0 else f"process ended with code {code}"
        return "process closed its socket"

    def _reap(self) -> None:
        assert self._process is not None
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
