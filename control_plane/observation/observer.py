"""Watches the director: a core around the core that changes nothing and keeps the record of every request in flight."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from control_plane.core.types import (
    Accepted,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    FinishReason,
    PolicyChanged,
    RequestArrived,
    SendBatch,
)
from control_plane.observation.record import REASON_OF_TIER, Outcome, Placement, PlacementReason, RequestRecord


class Core(Protocol):
    """The pure director."""

    def on_event(self, event: Event, now: float) -> Sequence[Effect]:
        """What to do about an event at `now`, in seconds."""


class Sink(Protocol):
    """Who is told of what happened."""

    def arrived(self, record: RequestRecord) -> None:
        """A request came in."""

    def placed(self, record: RequestRecord) -> None:
        """A request was sent to a worker: the last of its placements."""

    def ended(self, record: RequestRecord) -> None:
        """A request ended, well or not."""


class Observer:
    """A core that tells sinks what another core does."""

    def __init__(self, core: Core, sinks: Sequence[Sink], policy_digest: str) -> None:
        self._core = core
        self._sinks = sinks
        self._policy_digest = policy_digest
        # Requests in flight by id.
        self.live: dict[str, RequestRecord] = {}
        # Output tokens of all requests, counted as they come.
        self.num_output_tokens = 0
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Emitted: self._on_emitted,
            Accepted: self._on_accepted,
            SendBatch: self._on_send_batch,
            Finished: self._on_finished,
            Failed: self._on_failed,
        }

    def on_event(self, event: Event, now: float) -> Sequence[Effect]:
        """What the watched core says; noted."""
        if isinstance(event, RequestArrived):
            request = event.request
            record = RequestRecord(request, now, self._policy_digest, len(request.prompt_token_ids))
            self.live[request.request_id] = record
            for sink in self._sinks:
                sink.arrived(record)
        elif isinstance(event, PolicyChanged):
            self._policy_digest = event.policy.digest
        try:
            effects = self._core.on_event(event, now)
        except BaseException:
            if isinstance(event, RequestArrived):
                # Whoever submitted it is told, and no end will come.
                self.live.pop(event.request.request_id, None)
            raise
        handlers = self._handlers
        for effect in effects:
            handler = handlers.get(type(effect))
            if handler is not None:
                handler(effect, now)
        return effects

    def _on_emitted(self, effect: Emitted, now: float) -> None:
        output = effect.output
        record = self.live.get(output.request_id)
        if record is not None and output.token_ids:
            count = len(output.token_ids)
            record.num_output_tokens += count
            self.num_output_tokens += count
            if record.first_token_at is None:
                record.first_token_at = now

    def _on_accepted(self, effect: Accepted, now: float) -> None:
        record = self.live.get(effect.request_id)
        if record is not None:
            record.accepted_at = now

    def _on_send_batch(self, effect: SendBatch, now: float) -> None:
        for dispatched in effect.requests:
            record = self.live.get(dispatched.request.request_id)
            if record is None:
                continue
            if record.placements:
                reason = PlacementReason.REROUTED
            elif dispatched.request.adapter is None:
                reason = PlacementReason.BASE
            else:
                reason = REASON_OF_TIER[dispatched.tier]
            record.placements.append(Placement(effect.worker_id, now, reason))
            for sink in self._sinks:
                sink.placed(record)

    def _on_finished(self, effect: Finished, now: float) -> None:
        is_cancelled = effect.reason is FinishReason.CANCELLED
        self._end(effect.request_id, Outcome.CANCELLED if is_cancelled else Outcome.FINISHED, now)

    def _on_failed(self, effect: Failed, now: float) -> None:
        record = self.live.get(effect.request_id)
        if record is None:
            return
        record.error_reason, record.error_message = effect.error.reason, effect.error.message
        if record.placements:
            outcome = Outcome.FAILED
        else:
            outcome = Outcome.REFUSED if record.accepted_at is None else Outcome.DROPPED
        self._end(effect.request_id, outcome, now)

    def _end(self, request_id: str, outcome: Outcome, now: float) -> None:
        record = self.live.pop(request_id, None)
        if record is None:
            return
        record.ended_at, record.outcome = now, outcome
        for sink in self._sinks:
            sink.ended(record)
