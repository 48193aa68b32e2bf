"""Between the loop and one client's stream: what the client has not been sent yet, joined while it waits."""

import asyncio
from typing import NamedTuple

from control_plane.core.types import Failed, Finished, PositionLogprobs, Request, SequenceOutput

# Named tuples: one of each is made for every message to a client, and they cost a third of frozen dataclasses.


class PendingChunk(NamedTuple):
    """All new tokens since the last delivery."""

    token_ids: list[int]
    text: str
    logprobs: list[PositionLogprobs]


class Delivery(NamedTuple):
    """What to send now, in this order; at least one of the three is there."""

    is_started: bool
    chunk: PendingChunk | None
    end: Finished | Failed | None


class Outbox:
    """Holds one request's unsent output. The loop puts, one writer takes; the writer is woken once, however much came.

    It is bounded because a request's output is: `max_tokens` ids and their text.
    """

    __slots__ = ("_end", "_is_started", "_logprobs", "_texts", "_token_ids", "_waiter", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._is_started = False
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._logprobs: list[PositionLogprobs] = []
        self._end: Finished | Failed | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put_started(self) -> None:
        """The request was admitted."""
        self._is_started = True
        self._wake()

    def put_output(self, output: SequenceOutput) -> None:
        """New tokens."""
        self._token_ids.extend(output.token_ids)
        if output.text:
            self._texts.append(output.text)
        if output.logprobs:
            self._logprobs.extend(output.logprobs)
        self._wake()

    def put_end(self, end: Finished | Failed) -> None:
        """The request ended; nothing comes after."""
        self._end = end
        self._wake()

    async def take(self) -> Delivery:
        """Waits until there is something, and takes all of it."""
        while not self._has_something():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = None
        if self._token_ids or self._texts:
            chunk = PendingChunk(self._token_ids, "".join(self._texts), self._logprobs)
            self._token_ids, self._texts, self._logprobs = [], [], []
        delivery = Delivery(self._is_started, chunk, self._end)
        self._is_started = False
        return delivery

    def _has_something(self) -> bool:
        return bool(self._token_ids or self._texts or self._end or self._is_started)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
