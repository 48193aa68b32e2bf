"""Drives the director: events go in with the time, effects come out to worker links and client outboxes."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from control_plane.core.errors import DuplicateRequest
from control_plane.core.types import (
    Accepted,
    AdapterRef,
    DispatchedRequest,
    Effect,
    Emitted,
    Event,
    Failed,
    Finished,
    Request,
    RequestArrived,
    RequestCancelled,
    SendBatch,
    SendCancel,
    TenantsCharged,
    Tick,
)
from control_plane.runtime.outbox import Outbox

logger = logging.getLogger(__name__)


class Core(Protocol):
    """The pure director."""

    def on_event(self, event: Event, now: float) -> Sequence[Effect]:
        """What to do about an event at `now`, in seconds."""


class WorkerLink(Protocol):
    """The way to one attached worker."""

    def send_batch(self, requests: Sequence[DispatchedRequest], prefetch: Sequence[AdapterRef]) -> None:
        """Queues requests; does not wait."""

    def send_cancel(self, request_id: str) -> None:
        """Queues a cancel; does not wait."""


class Driver:
    """Owns the director, the worker links and the outboxes. All methods run on one event loop and none waits.

    A request's outbox exists from `submit` to the effect that ends it or to `cancel`, and its end is put exactly once.
    """

    def __init__(self, core: Core, clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock
        # Where what tenants got is added up; the director charges only once it was told of totals.
        self.on_charge: Callable[[TenantsCharged], None] = _drop
        self._links: dict[str, WorkerLink] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_requests(self) -> int:
        """Requests between their submission and their end."""
        return len(self._outboxes)

    def request_ids(self) -> Iterable[str]:
        """The ids of those requests."""
        return self._outboxes.keys()

    def submit(self, request: Request) -> Outbox:
        """Hands a request to the director; its outbox tells how it goes on. Raises DuplicateRequest."""
        request_id = request.request_id
        if request_id in self._outboxes:
            raise DuplicateRequest(
                f"request_id: a request {request_id!r} is in flight; wait for it or choose another id",
                metadata={"field": "request_id"},
            )
        outbox = Outbox(request)
        self._outboxes[request_id] = outbox
        self._idle.clear()
        try:
            self._on_event(RequestArrived(request))
        except BaseException:
            self._forget(request_id)
            raise
        return outbox

    def cancel(self, outbox: Outbox) -> None:
        """The client of this outbox is gone. Does nothing if the request ended or the outbox is not its own."""
        request_id = outbox.request.request_id
        if self._outboxes.get(request_id) is outbox:
            self._forget(request_id)
            self.report(RequestCancelled(request_id))

    def attach(self, worker_id: str, link: WorkerLink) -> bool:
        """Makes a link the way to a worker; False if the worker has one already."""
        return self._links.setdefault(worker_id, link) is link

    def detach(self, worker_id: str, link: WorkerLink) -> None:
        """Takes the link away, if it is the worker's."""
        if self._links.get(worker_id) is link:
            del self._links[worker_id]

    def report(self, event: Event) -> None:
        """Tells the director what happened and does what it says; a mistake of ours is logged, and serving goes on."""
        try:
            self._on_event(event)
        except Exception:
            logger.exception("the director failed on %s", type(event).__name__)

    def _on_event(self, event: Event) -> None:
        for effect in self._core.on_event(event, self._clock()):
            self._apply(effect)

    async def tick_forever(self, interval_s: float) -> None:
        """Lets the director see time pass."""
        while True:
            await asyncio.sleep(interval_s)
            self.report(Tick())

    async def wait_idle(self) -> None:
        """Returns when no request is in flight."""
        await self._idle.wait()

    def _apply(self, effect: Effect) -> None:
        match effect:
            case Emitted(output):
                outbox = self._outboxes.get(output.request_id)
                if outbox is not None:
                    outbox.put_output(output)
            case Finished(request_id) | Failed(request_id):
                outbox = self._forget(request_id)
                if outbox is not None:
                    outbox.put_end(effect)
            case Accepted(request_id):
                outbox = self._outboxes.get(request_id)
                if outbox is not None:
                    outbox.put_started()
            case SendBatch(worker_id, requests, prefetch):
                link = self._links.get(worker_id)
                if link is not None:
                    link.send_batch(requests, prefetch)
            case SendCancel(worker_id, request_id):
                link = self._links.get(worker_id)
                if link is not None:
                    link.send_cancel(request_id)
            case TenantsCharged():
                self.on_charge(effect)

    def _forget(self, request_id: str) -> Outbox | None:
        outbox = self._outboxes.pop(request_id, None)
        if not self._outboxes:
            self._idle.set()
        return outbox


def _drop(_lot: TenantsCharged) -> None:
    """There is no shared state."""
