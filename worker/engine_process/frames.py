"""Messages on a byte stream: eight bytes of length, then the pickled message.

Both ends are this worker's own processes, joined by a socket pair that nobody else holds.
"""

import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!Q")


def encode_frame(message: object) -> bytes:
    """The bytes of one message."""
    payload = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(payload)) + payload


class FrameBuffer:
    """Cuts a byte stream, as it arrives, into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Takes the next bytes and returns the messages that they complete."""
        self._data += data
        messages = []
        start = 0
        while len(self._data) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data, start)
            end = start + _LENGTH.size + length
            if len(self._data) < end:
                break
            messages.append(pickle.loads(memoryview(self._data)[start + _LENGTH.size : end]))  # noqa: S301
            start = end
        if start:
            del self._data[:start]
        return messages


def receive_frame(connection: socket.socket) -> Any:
    """Waits for one message. Raises EOFError when the other side is gone."""
    (length,) = _LENGTH.unpack(_receive_exactly(connection, _LENGTH.size))
    return pickle.loads(_receive_exactly(connection, length))  # noqa: S301


def _receive_exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            count = connection.recv_into(view)
        except ConnectionResetError:
            count = 0
        if not count:
            raise EOFError
        view = view[count:]
    return data
