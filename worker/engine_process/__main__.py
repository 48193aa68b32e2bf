"""The engine process: `python -m worker.engine_process <fd> [<module>]`, started by `EngineClient` alone."""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading

from worker.engine_process.frames import encode_frame, receive_frame
from worker.engine_process.loop import Inbox, run_engine
from worker.engine_process.messages import BuildEngine, BuiltEngine, EngineFailed, EngineReady
from worker.errors import EngineStartError, WorkerError

_log = logging.getLogger("worker.engine")


def main(descriptor: int, preload: str = "") -> int:
    """Builds the engine that the first message describes and runs it until the server process is gone.

    Until that message comes it imports `preload`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server process drains, then closes the socket
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    connection = socket.socket(fileno=descriptor)
    inbox: Inbox = Inbox()
    if preload:
        importlib.import_module(preload)
    try:
        build: BuildEngine = receive_frame(connection)
    except EOFError:
        return 0
    threading.Thread(target=_read, args=(connection, inbox), name="inbox", daemon=True).start()
    try:
        built = _build(build)
    except WorkerError as error:
        connection.sendall(encode_frame(EngineFailed(error)))
        return 1
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server process is gone
        connection.sendall(encode_frame(EngineReady(built.facts)))
        run_engine(built.engine, inbox, lambda result: connection.sendall(encode_frame(result)))
    return 0


def _build(build: BuildEngine) -> BuiltEngine:
    try:
        return build()
    except WorkerError:
        raise
    except Exception as error:
        _log.exception("the engine could not be built")
        raise EngineStartError(f"the engine could not be built: {type(error).__name__}: {error}") from error


def _read(connection: socket.socket, inbox: Inbox) -> None:
    """Passes commands on; ends the process, whatever it is doing, when the server process is gone."""
    while True:
        try:
            inbox.put(receive_frame(connection))
        except EOFError:
            os._exit(0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
