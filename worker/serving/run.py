"""One request on this worker."""

import asyncio
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING

from worker.serving.ports import AdapterLease
from worker.text.stream import TextStream
from worker.types import (
    EngineRequest,
    FinishReason,
    OutputPiece,
    Request,
    RequestFailure,
    SequenceOutput,
)

if TYPE_CHECKING:
    from worker.serving.stream import DispatchStream


class RunState(Enum):
    """How far a request is; it only moves down this list."""

    FETCHING = auto()  # its adapter is on the way to host memory
    RUNNING = auto()  # the engine has it
    ENDING = auto()  # its end is decided and nothing more will be told; the engine may still have it


@dataclass(slots=True, eq=False)
class Run:
    """A request from its arrival until the engine has let go of it.

    Attributes:
        key: Its name in the engine; request ids may collide between control planes.
        pieces: Output that has yet to be sent.
        finish_reason: Why it ended well; sent with the last piece.
        failure: Why it did not; sent after the last piece.
        lease: Keeps its adapter in host memory as long as the engine has the request.
    """

    key: str
    request: Request
    stream: "DispatchStream"
    text: TextStream
    state: RunState = RunState.RUNNING
    pieces: list[OutputPiece] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    failure: RequestFailure | None = None
    lease: AdapterLease | None = None
    fetch: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether its end is decided."""
        return self.state is RunState.ENDING

    def engine_request(self, eos_token_ids: frozenset[int]) -> EngineRequest:
        """The request as the engine takes it."""
        request = self.request
        stop_token_ids = frozenset(request.stop_token_ids)
        return EngineRequest(
            request_id=self.key,
            prompt_token_ids=request.prompt_token_ids,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            adapter=self.lease.adapter if self.lease else None,
            resumed_token_ids=request.resumed_token_ids,
            stop_token_ids=stop_token_ids if request.ignore_eos else stop_token_ids | eos_token_ids,
            logprob_count=request.logprob_count,
            priority=request.priority,
        )

    def take(self, output: SequenceOutput) -> None:
        """Adds what a step produced. Ends the run if that is the engine's last word, or a stop string is complete."""
        token_ids, logprobs = output.token_ids, output.logprobs
        text = ""
        if token_ids:
            piece = self.text.push(token_ids)
            text = piece.text
            if piece.stopped:
                token_ids, logprobs = token_ids[: piece.num_tokens], logprobs[: piece.num_tokens]
                self.end(FinishReason.STOP)
        if output.finish_reason is not None and not self.is_over:
            tail = self.text.finish()
            text += tail.text
            self.end(FinishReason.STOP if tail.stopped else output.finish_reason)
        if token_ids or text:
            self.pieces.append(OutputPiece(token_ids, text, logprobs))

    def take_pieces(self, limit: int) -> list[OutputPiece]:
        """Removes and returns the oldest pieces, at most `limit`."""
        taken, self.pieces = self.pieces[:limit], self.pieces[limit:]
        return taken

    def end(self, reason: FinishReason) -> None:
        """Ends it well."""
        self.state = RunState.ENDING
        self.finish_reason = reason

    def fail(self, error: RequestFailure) -> None:
        """Ends it badly; the failure is told under the control plane's own id."""
        self.state = RunState.ENDING
        self.failure = replace(error, request_id=self.request.request_id)
