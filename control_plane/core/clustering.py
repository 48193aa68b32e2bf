"""Which waiting request goes next: their order, bent so that requests of one adapter go together."""

import math
from dataclasses import dataclass

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.fleet import Fleet
from control_plane.core.ledger import RequestState, TrackedRequest
from control_plane.core.policy import ClusteringSettings
from control_plane.core.queue import WaitingQueue
from control_plane.core.rows import Bools


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request to place now, and the workers with a free place that it may go to, by row of the fleet's columns."""

    tracked: TrackedRequest
    among: Bools


class Clustering:
    """Chooses candidates one after the other; nothing that waited for `max_age_s` gives way to a run of one adapter.

    The bound on a worker's adapters holds for every request. While one waits that is old, each worker at its bound lets
    go of an adapter: others get no place there for that adapter, so that nothing is overtaken for ever.
    """

    def __init__(self, settings: ClusteringSettings, queue: WaitingQueue) -> None:
        self._settings = settings
        self._queue = queue
        self._run_digest: str | None = None
        self._run_length = 0
        # The first old request that waits, and the adapters that workers let go of meanwhile, by row.
        self._old: TrackedRequest | None = None
        self._let_go: dict[int, str] = {}

    def next(self, fleet: Fleet, now: float) -> Candidate | None:
        """The next request to place; None if none waits, or if all that wait would exceed a bound on adapters."""
        head = self._queue.head()
        if head is None or not fleet.has_open_worker:
            return None
        is_old = now - head.arrived_at > self._settings.max_age_s
        self._note_old(head if is_old else None, fleet)
        tracked = head if is_old else self._next_of_run(head) or head
        among = self._with_room(tracked, fleet, of_any_rank=is_old)
        if tracked is not head and not among.any():
            tracked, among = head, self._with_room(head, fleet)
        if not among.any():
            return self._next_for_adapters(fleet)
        return self._candidate(tracked, among)

    def _note_old(self, head: TrackedRequest | None, fleet: Fleet) -> None:
        """An old request keeps its right until it is placed or ends, even while it is parked."""
        if self._old is None or self._old.state is not RequestState.QUEUED:
            self._old = head
        if self._old is None:
            self._let_go.clear()
            return
        columns = fleet.columns
        at_bound = columns.has_room & (columns.num_adapters >= self._settings.max_adapters_per_worker)
        for row in map(int, np.flatnonzero(at_bound)):
            worker, digest = fleet.at(row), self._let_go.get(row)
            if digest is None or not worker.has_adapter(digest):
                self._let_go[row] = worker.least_used_adapter

    def _next_of_run(self, head: TrackedRequest) -> TrackedRequest | None:
        if head.is_requeued or self._run_digest is None or self._run_length >= self._settings.max_run:
            return None
        # Of the same tenant: whose turn it is does not depend on adapters.
        tracked = self._queue.head_of_adapter(self._run_digest, head.request.tenant)
        if tracked is None or self._queue.rank(tracked) > self._queue.rank(head):
            return None
        if tracked.turn - head.turn > self._settings.max_age_s:
            return None
        return tracked

    def _next_for_adapters(self, fleet: Fleet) -> Candidate | None:
        """The first request, in their order, whose adapter is in use on a worker with a free place, or of the base."""
        # What waits is bounded, and what a large fleet runs is far more.
        digests = [digest for digest in self._queue.adapters if fleet.columns.has_user_with_room(digest)]
        firsts = [self._queue.head_of_adapter(digest) for digest in (*digests, None)]
        found = [tracked for tracked in firsts if tracked is not None]
        if not found:
            return None
        for tracked in sorted(found, key=self._queue.key):
            among = self._with_room(tracked, fleet)
            if among.any():
                return self._candidate(tracked, among)
        return None

    def _with_room(self, tracked: TrackedRequest, fleet: Fleet, *, of_any_rank: bool = False) -> Bools:
        digest, columns = tracked.digest, fleet.columns
        if digest is None:
            # The base model's rows need no adapter: they have room everywhere.
            return columns.has_room
        is_below = columns.num_adapters < self._settings.max_adapters_per_worker
        using = columns.using(digest)
        let_go = [row for row, each in self._let_go.items() if each == digest]
        if let_go and tracked is not self._old:
            using = using.copy()
            using[let_go] = False
        among: Bools = columns.has_room & (is_below | using)
        return among if of_any_rank else among & self._like_ranks(tracked, columns)

    def _like_ranks(self, tracked: TrackedRequest, columns: FleetColumns) -> Bools | np.bool_:
        """Whether the ranks in flight on each worker are like the adapter's."""
        octaves, adapter = self._settings.max_rank_octaves, tracked.request.adapter
        if not octaves or adapter is None:
            return np.True_
        distance = np.abs(columns.mean_log2_rank - math.log2(max(1, adapter.rank)))
        near: Bools = ~(distance > octaves)
        return near

    def _candidate(self, tracked: TrackedRequest, among: Bools) -> Candidate:
        if tracked.digest == self._run_digest:
            self._run_length += 1
        else:
            self._run_digest, self._run_length = tracked.digest, 1
        return Candidate(tracked, among)
