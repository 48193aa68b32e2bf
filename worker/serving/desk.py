"""All requests on this worker, from every stream, around one engine."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from worker.codec import typed
from worker.engine_process.messages import EngineFacts
from worker.errors import (
    AdapterStoreMissingError,
    EngineCrashedError,
    RequestDuplicateError,
    RequestWindowExceededError,
    WorkerDrainingError,
    WorkerError,
)
from worker.serving.ports import AdapterHost, EnginePort
from worker.serving.run import Run, RunState
from worker.serving.status import StatusBoard
from worker.serving.stream import DispatchStream
from worker.serving.validation import check_request, is_digest
from worker.text.stream import TextStream
from worker.text.vocabulary import Vocabulary
from worker.types import (
    AdapterRef,
    FinishReason,
    Request,
    RequestFailure,
    StepResult,
)

_log = logging.getLogger("worker.serving")


@dataclass(frozen=True, slots=True)
class DeskLimits:
    """Most requests of one control plane, and most sequence steps in one message; see WorkerConfig."""

    request_window: int
    message_tokens: int


class RequestDesk:
    """Takes requests from streams to the engine and tokens back.

    Every accepted request ends exactly once on its stream: with a finish reason, or with a failure. Its adapter stays
    leased until the engine has let go of it.
    """

    def __init__(
        self,
        limits: DeskLimits,
        facts: EngineFacts,
        engine: EnginePort,
        vocabulary: Vocabulary,
        host: AdapterHost | None,
        status: StatusBoard,
    ) -> None:
        self._limits = limits
        self._facts = facts
        self._engine = engine
        self._vocabulary = vocabulary
        self._host = host
        self._status = status
        self._runs: dict[str, Run] = {}  # by key: those that wait for their adapter, and those that the engine has
        self._streams: set[DispatchStream] = set()
        self._keys = count()
        self._refusal: WorkerError | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def refusal(self) -> WorkerError | None:
        """Why no new request is taken any more, if so."""
        return self._refusal

    @property
    def has_lost_engine(self) -> bool:
        """Whether the engine process is gone."""
        return isinstance(self._refusal, EngineCrashedError)

    def open_stream(self, control_plane_id: str, *, step_credits: int) -> DispatchStream:
        """A control plane attached."""
        stream = DispatchStream(
            control_plane_id,
            step_credits=step_credits,
            message_tokens=self._limits.message_tokens,
            changes=self._status.board.watch(),
        )
        self._streams.add(stream)
        self._empty.clear()
        return stream

    def close_stream(self, stream: DispatchStream) -> None:
        """A stream ended: all its requests end with it."""
        self._streams.discard(stream)
        if not self._streams:
            self._empty.set()
        self._status.board.unwatch(stream.changes)
        stream.close()
        running = []
        for run in stream.runs.values():
            if run.state is RunState.RUNNING:
                running.append(run.key)
            elif run.state is RunState.FETCHING:
                self._drop_fetch(run)
            run.state = RunState.ENDING
        self._engine.cancel(running)

    def request_status(self) -> None:
        """Every stream is to be told the worker's state."""
        for stream in self._streams:
            stream.request_status()

    def accept(self, stream: DispatchStream, requests: Sequence[Request]) -> None:
        """Takes or refuses each request of a batch. Those whose adapter is on its way are answered when it is there."""
        ready = []
        for request in requests:
            try:
                run = self._enter(stream, request)
            except Exception as error:  # noqa: BLE001 - our own mistake fails this request alone
                if not isinstance(error, WorkerError):
                    _log.exception("request %s could not be taken", request.request_id)
                stream.reject(RequestFailure.of(request.request_id, typed(error)))
                continue
            if run.state is RunState.RUNNING:
                stream.accept(run)
                ready.append(run.engine_request(self._facts.eos_token_ids))
        self._engine.submit(ready)

    def cancel(self, stream: DispatchStream, request_id: str) -> None:
        """Ends a request, unless it has ended."""
        run = stream.runs.get(request_id)
        if run is None:
            return
        if run.state is RunState.RUNNING:
            self._engine.cancel([run.key])
        elif run.state is RunState.FETCHING:
            self._drop_fetch(run)
            run.end(FinishReason.CANCELLED)
            stream.changed(run)

    def prefetch(self, adapters: Sequence[AdapterRef]) -> None:
        """Adapters will be needed soon."""
        if self._host is not None and self._refusal is None:
            self._host.prefetch([adapter for adapter in adapters if is_digest(adapter.digest)])

    def _enter(self, stream: DispatchStream, request: Request) -> Run:
        """Checks a request and makes its run: fetching its adapter, ready for the engine, or over already."""
        if self._refusal is not None:
            raise self._refusal
        check_request(request, self._facts)
        if request.request_id in stream.runs:
            raise RequestDuplicateError(f"request {request.request_id} is in flight", field="request_id")
        if len(stream.runs) >= self._limits.request_window:
            raise RequestWindowExceededError(
                f"{len(stream.runs)} requests of this control plane are here, as many as request_window allows"
            )
        text = TextStream(self._vocabulary, request.prompt_token_ids, request.stop_strings, request.resumed_token_ids)
        run = Run(str(next(self._keys)), request, stream, text)
        if text.stopped:
            run.end(FinishReason.STOP)
            stream.accept(run)
            stream.changed(run)
        elif request.adapter is not None:
            self._find_adapter(run, request.adapter)
        stream.runs[request.request_id] = run
        if not run.is_over:
            self._runs[run.key] = run
        return run

    def _find_adapter(self, run: Run, adapter: AdapterRef) -> None:
        if self._host is None:
            raise AdapterStoreMissingError("this worker serves the base model only: set store_address", field="adapter")
        run.lease = self._host.get_hosted(adapter.digest)
        if run.lease is None:
            run.state = RunState.FETCHING
            run.fetch = asyncio.create_task(self._fetch(self._host, run, adapter))

    async def _fetch(self, host: AdapterHost, run: Run, adapter: AdapterRef) -> None:
        """Brings a request's adapter, and the request to the engine. Cancelled if the request ends before."""
        try:
            run.lease = await host.get(adapter)
        except Exception as error:  # noqa: BLE001 - our own mistake fails this request alone
            if not isinstance(error, WorkerError):
                _log.exception("adapter %s could not be fetched", adapter.digest)
            del self._runs[run.key]
            del run.stream.runs[run.request.request_id]
            run.stream.reject(RequestFailure.of(run.request.request_id, typed(error)))
            return
        run.state = RunState.RUNNING
        run.stream.accept(run)
        self._engine.submit([run.engine_request(self._facts.eos_token_ids)])

    def _drop_fetch(self, run: Run) -> None:
        assert run.fetch is not None
        run.fetch.cancel()
        del self._runs[run.key]

    def on_step(self, result: StepResult) -> None:
        """Passes on what a step produced. Runs for every step: one pass over its outputs."""
        runs = self._runs
        stopped = []
        for output in result.outputs:
            run = runs.get(output.request_id)
            if run is None:
                continue
            is_last = output.finish_reason is not None
            if is_last:
                self._let_go(run)
            if run.state is RunState.RUNNING:
                run.take(output)
                if run.pieces or run.is_over:
                    run.stream.changed(run)
                if run.is_over and not is_last:
                    stopped.append(run.key)
        self._engine.cancel(stopped)
        for failure in result.failures:
            failed = runs.get(failure.request_id)
            if failed is not None:
                self._let_go(failed)
                self._fail(failed, failure)
        for change in result.residency:
            self._status.board.set_pool(change.digest, resident=change.resident)
        self._status.note(result.stats)

    def on_engine_lost(self, error: WorkerError) -> None:
        """The engine is gone: whatever was in flight has failed, and nothing more is taken."""
        _log.error("%s", error)
        self._refusal = error
        for run in list(self._runs.values()):
            if run.state is RunState.FETCHING:
                self._drop_fetch(run)
            else:
                self._let_go(run)
            self._fail(run, RequestFailure.of(run.request.request_id, error))
        self.request_status()

    def _let_go(self, run: Run) -> None:
        """The engine has ended a run: its adapter may go."""
        del self._runs[run.key]
        if run.lease is not None:
            run.lease.release()

    def _fail(self, run: Run, failure: RequestFailure) -> None:
        if not run.is_over:
            run.fail(failure)
            run.stream.changed(run)

    def start_draining(self) -> None:
        """Takes no new request; those in flight go on, and a stream ends when it has none."""
        self._refusal = self._refusal or WorkerDrainingError("the worker is shutting down: use another one")
        self.request_status()

    async def wait_empty(self) -> None:
        """Waits until no stream is open."""
        await self._empty.wait()
