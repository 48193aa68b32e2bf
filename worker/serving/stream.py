"""One control plane's stream: what waits to be sent on it, and under which credits."""

import asyncio
from collections.abc import Callable

from multitude.v1 import worker_pb2
from worker.codec import ack_to_proto, output_to_proto, status_to_proto, step_to_proto
from worker.serving.residency import ResidencyChanges
from worker.serving.run import Run
from worker.types import RequestFailure, WorkerStatus


class DispatchStream:
    """The requests that came on a stream, and its sending side.

    A request holds its place in `runs`, and so in the window, until its end was sent. Output waits in its run; while
    there is no step credit it is joined there, so what waits is bounded by the requests.
    """

    def __init__(
        self, control_plane_id: str, *, step_credits: int, message_tokens: int, changes: ResidencyChanges
    ) -> None:
        self.control_plane_id = control_plane_id
        self.changes = changes
        self.runs: dict[str, Run] = {}  # by request id
        self._credits = step_credits
        self._message_tokens = message_tokens
        self._accepted: list[str] = []
        self._rejected: list[RequestFailure] = []
        self._changed: dict[Run, None] = {}  # runs with something to send, oldest first
        self._is_status_due = True
        self._is_closed = False
        self._wakened = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no request is on it and everything was sent."""
        return not (self.runs or self._accepted or self._rejected)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended."""
        return self._is_closed

    def add_credits(self, count: int) -> None:
        """Lets that many more steps be sent."""
        self._credits += max(count, 0)
        self._wakened.set()

    def accept(self, run: Run) -> None:
        """A request was taken."""
        self._accepted.append(run.request.request_id)
        self._wakened.set()

    def reject(self, failure: RequestFailure) -> None:
        """A request was refused before it ran."""
        self._rejected.append(failure)
        self._wakened.set()

    def changed(self, run: Run) -> None:
        """A request has output, or its end, to send."""
        self._changed[run] = None
        self._wakened.set()

    def request_status(self) -> None:
        """The worker's state is to be told again."""
        self._is_status_due = True
        self._wakened.set()

    def close(self) -> None:
        """Nothing more is sent."""
        self._is_closed = True
        self._wakened.set()

    async def news(self) -> None:
        """Waits until something happened since the last call."""
        await self._wakened.wait()
        self._wakened.clear()

    def next_message(
        self, read_status: Callable[[ResidencyChanges], WorkerStatus]
    ) -> worker_pb2.DispatchResponse | None:
        """Builds the next message that may be sent now, if there is one."""
        if self._is_status_due:
            self._is_status_due = False
            return status_to_proto(read_status(self.changes))
        if self._accepted or self._rejected:
            accepted, self._accepted = self._accepted, []
            rejected, self._rejected = self._rejected, []
            return ack_to_proto(accepted, rejected)
        if self._changed and self._credits > 0:
            self._credits -= 1
            return self._step_message()
        return None

    def _step_message(self) -> worker_pb2.DispatchResponse:
        """Joins what waits, up to `message_tokens` steps of sequences; the rest needs another credit."""
        outputs = []
        failures = []
        budget = self._message_tokens
        for run in list(self._changed):
            if budget <= 0:
                break
            pieces = run.take_pieces(budget)
            budget -= max(len(pieces), 1)
            is_end = run.is_over and not run.pieces
            finish_reason = run.finish_reason if is_end else None
            if pieces or finish_reason is not None:
                outputs.append(output_to_proto(run.request.request_id, pieces, finish_reason))
            if is_end:
                del self.runs[run.request.request_id]
                if run.failure is not None:
                    failures.append(run.failure)
            if not run.pieces:
                del self._changed[run]
        return step_to_proto(outputs, failures)
