"""Sees every event and effect, and says when the director breaks a promise."""

import zlib
from dataclasses import dataclass, field
from itertools import pairwise

from control_plane.core.types import (
    Accepted,
    BatchAcked,
    DrainChanged,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    FinishReason,
    LeaseChanged,
    Request,
    RequestArrived,
    SendBatch,
    SendCancel,
    TokensProduced,
    WorkerLost,
    WorkerReported,
)


def expected_token(request_id: str, position: int) -> int:
    """The token that every simulated worker produces there."""
    return (zlib.crc32(request_id.encode()) + position) % 32_000


@dataclass(slots=True)
class Sight:
    """What was seen of one request."""

    request: Request
    arrived_at: float
    accepted: bool = False
    num_tokens: int = 0
    first_token_at: float | None = None
    end: Finished | Failed | None = None
    worker_id: str | None = None
    num_dispatches: int = 0


@dataclass(slots=True)
class Witness:
    """Asserts, at each event, what must hold whatever happens."""

    sights: dict[str, Sight] = field(default_factory=dict)
    windows: dict[str, int] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)
    without_lease: set[str] = field(default_factory=set)
    draining: set[str] = field(default_factory=set)
    tenants: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def see(self, event: Event, effects: list[Effect], now: float) -> None:
        self._see_event(event, now)
        for effect in effects:
            match effect:
                case Accepted(request_id):
                    sight = self.sights[request_id]
                    assert isinstance(event, RequestArrived), "accepted out of the blue"
                    assert not sight.accepted
                    sight.accepted = True
                case SendBatch():
                    self._see_batch(effect)
                case SendCancel(worker_id, request_id):
                    assert request_id in self.held[worker_id], "cancelled where it is not"
                case Emitted():
                    self._see_output(effect, now)
                case Finished(request_id) | Failed(request_id):
                    self._see_end(self.sights[request_id], effect)

    def assert_all_ended(self) -> None:
        """Every request ended, and no worker holds any."""
        for request_id, sight in self.sights.items():
            assert sight.end is not None, f"{request_id} never ended"
        for worker_id, held in self.held.items():
            assert not held, f"{worker_id} still holds {sorted(held)}"

    def _see_event(self, event: Event, now: float) -> None:
        match event:
            case RequestArrived(request):
                self.sights[request.request_id] = Sight(request, now)
            case WorkerReported(status):
                self.windows[status.worker_id] = status.request_window
                self.tenants[status.worker_id] = status.tenants
                self.held.setdefault(status.worker_id, set())
            case LeaseChanged(worker_id, is_live) if worker_id in self.held:
                (self.without_lease.discard if is_live else self.without_lease.add)(worker_id)
            case DrainChanged(worker_id, is_draining):
                (self.draining.add if is_draining else self.draining.discard)(worker_id)
            case WorkerLost(worker_id):
                self.held.pop(worker_id, None)
                self.without_lease.discard(worker_id)
            case BatchAcked(worker_id, _, rejected):
                self._let_go(worker_id, [failure.request_id for failure in rejected])
            case TokensProduced(worker_id, outputs, failures):
                ended = [output.request_id for output in outputs if output.finish_reason is not None]
                self._let_go(worker_id, ended + [failure.request_id for failure in failures])
            case _:
                pass

    def _let_go(self, worker_id: str, request_ids: list[str]) -> None:
        self.held.get(worker_id, set()).difference_update(request_ids)

    def _see_batch(self, batch: SendBatch) -> None:
        assert batch.requests or batch.prefetch, "an empty message"
        assert batch.worker_id in self.held, f"sent to {batch.worker_id}, which is not attached"
        assert not batch.requests or batch.worker_id not in self.without_lease, "sent to a worker without a lease"
        assert batch.worker_id not in self.draining, "sent to a worker that is draining"
        held = self.held[batch.worker_id]
        digests = []
        for dispatched in batch.requests:
            request_id = dispatched.request.request_id
            sight = self.sights[request_id]
            assert sight.accepted
            assert sight.end is None, "sent after its end"
            allowed = self.tenants[batch.worker_id]
            assert not allowed or sight.request.tenant in allowed, "sent to a worker that is not for its tenant"
            for worker_id, others in self.held.items():
                assert request_id not in others, f"sent to {batch.worker_id} while {worker_id} has it"
            resumed = tuple(expected_token(request_id, position) for position in range(sight.num_tokens))
            assert dispatched.resumed_token_ids == resumed, "resumed tokens are not those that the client saw"
            held.add(request_id)
            sight.worker_id = batch.worker_id
            sight.num_dispatches += 1
            digests.append(dispatched.request.adapter.digest if dispatched.request.adapter else None)
        changes = sum(left != right for left, right in pairwise(digests))
        assert changes <= max(0, len(set(digests)) - 1), "a batch is not grouped by adapter"
        if not batch.requests:
            # A window that shrank below what is there; hints are still welcome.
            return
        assert len(held) <= self.windows[batch.worker_id], f"the window of {batch.worker_id} is exceeded"

    def _see_output(self, emitted: Emitted, now: float) -> None:
        output = emitted.output
        sight = self.sights[output.request_id]
        assert sight.end is None, "output after the end"
        for token_id in output.token_ids:
            assert token_id == expected_token(output.request_id, sight.num_tokens), "a token is lost, twice or astray"
            sight.num_tokens += 1
        if output.token_ids and sight.first_token_at is None:
            sight.first_token_at = now

    def _see_end(self, sight: Sight, effect: Finished | Failed) -> None:
        assert sight.end is None, "ended twice"
        assert sight.accepted or isinstance(effect, Failed)
        if isinstance(effect, Finished):
            assert effect.usage.num_output_tokens == sight.num_tokens
            if effect.reason is FinishReason.LENGTH:
                assert sight.num_tokens == sight.request.max_tokens
        sight.end = effect
