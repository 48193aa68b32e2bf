"""The attached workers, as objects for what concerns one of them and as columns for what concerns all."""

from collections.abc import Iterator

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.types import WorkerStatus
from control_plane.core.worker import Worker

__all__ = ["Fleet", "Worker"]


# Marks of workers that are not attached are forgotten, oldest first, beyond so many marks.
_MAX_DRAINING = 10_000


class Fleet:
    """The attached workers."""

    def __init__(self, max_promised: float = 0.0) -> None:
        self.columns = FleetColumns()
        self.max_promised = max_promised
        self._workers: dict[str, Worker] = {}
        self._draining: dict[str, None] = {}
        self.unable_since: float | None = None
        """Since when no worker takes requests at all; None while one does, and before the first event."""

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def has_open_worker(self) -> bool:
        """Whether some worker has a free place."""
        return bool(self.columns.has_room.any())

    @property
    def num_accepting(self) -> int:
        """How many workers take requests, now or when a place is freed."""
        return int(np.count_nonzero(self.columns.window))

    def set_max_promised(self, max_promised: float) -> None:
        """How many of a worker's pools may be promised to the ends of its requests; 0 for any number."""
        self.max_promised = max_promised
        for worker in self._workers.values():
            worker.set_max_promised(max_promised)

    def get(self, worker_id: str) -> Worker | None:
        """The worker, if it is attached."""
        return self._workers.get(worker_id)

    def at(self, row: int) -> Worker:
        """The worker whose row it is."""
        return self._workers[self.columns.worker_id(row)]

    def report(self, status: WorkerStatus, now: float, smoothing: float) -> None:
        """Take a report in; the first makes the worker known."""
        worker = self._workers.get(status.worker_id)
        if worker is None:
            worker = self._workers[status.worker_id] = Worker(status, self.columns, self.max_promised)
            worker.set_drain(is_draining=status.worker_id in self._draining)
        worker.merge(status, now, smoothing)
        self._note_ability(now)

    def set_lease(self, worker_id: str, *, is_live: bool, now: float) -> None:
        """An attached worker's lease ran out or came back; a worker that attaches has one."""
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.set_lease(is_live=is_live)
        self._note_ability(now)

    def set_drain(self, worker_id: str, *, is_draining: bool, now: float) -> None:
        """An operator takes a worker out of service, or puts it back; that outlives the worker's stream."""
        self._draining.pop(worker_id, None)
        if is_draining:
            self._draining[worker_id] = None
        if len(self._draining) > _MAX_DRAINING:
            self._draining.pop(next((each for each in self._draining if each not in self._workers), worker_id))
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker.set_drain(is_draining=is_draining)
        self._note_ability(now)

    def remove(self, worker_id: str, now: float) -> Worker | None:
        """Forget a worker whose stream ended; returns it with what was in flight."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            worker.detach()
        self._note_ability(now)
        return worker

    def note_time(self, now: float) -> None:
        """Begin counting the time without a worker, at the first event."""
        if self.unable_since is None:
            self._note_ability(now)

    def _note_ability(self, now: float) -> None:
        if self.columns.window.any():
            self.unable_since = None
        elif self.unable_since is None:
            self.unable_since = now
