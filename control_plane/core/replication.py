"""Brings adapters to workers before their requests: hot ones to more, those of a draining worker to others."""

import numpy as np

from control_plane.core.dispatch import Dispatcher
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.homes import homes
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.scorers.home import Home
from control_plane.core.policy import Policy
from control_plane.core.types import Request, ResidencyTier


class Replicator:
    """Tells workers to fetch the adapters that belong on them; `Dispatcher.flush` sends what it tells."""

    def __init__(self, policy: Policy, *, fleet: Fleet, dispatcher: Dispatcher) -> None:
        self.policy = policy
        self._fleet = fleet
        self._demand = fleet.columns.demand
        self._dispatcher = dispatcher
        self._next_at = 0.0
        # A request for each adapter that has to go elsewhere, by digest.
        self._moves: dict[str, Request] = {}

    def drained(self, worker_id: str, now: float) -> None:
        """A worker takes no requests any more: its adapters that are asked for are to go where they belong now."""
        worker = self._fleet.get(worker_id)
        if worker is not None:
            warm = self._demand.warm({*worker.residency, *worker.adapters}, now)
            self._moves |= {request.adapter.digest: request for request in warm if request.adapter is not None}

    def run(self, now: float) -> None:
        """Name up to `max_moves` adapters to the workers that lack them, once an interval."""
        settings = self.policy.replication
        if now < self._next_at or not settings.max_moves:
            return
        self._next_at = now + settings.interval_s
        num_left = settings.max_moves
        while self._moves and num_left > 0:
            num_left -= self._bring(self._moves.pop(next(iter(self._moves))), now, num_left)
        for request in self._demand.hot(now):
            if num_left <= 0:
                return
            num_left -= self._bring(request, now, num_left)

    def _bring(self, request: Request, now: float, max_moves: int) -> int:
        """Name a request's adapter to the workers where it belongs and is not; returns to how many.

        Where a policy does not send requests home, any worker that has the adapter is as good.
        """
        adapter, columns = request.adapter, self._fleet.columns
        assert adapter is not None
        count = self._demand.num_workers(adapter.digest, now)
        profile = self.policy.placement.profile_for(request)
        among = profile.able(PlacementRequest(request, now=now), columns, columns.window > 0)
        if not profile.uses(Home.name):
            max_moves = min(max_moves, count - int(np.count_nonzero(columns.tiers(adapter.digest)[among])))
        lacking = [
            worker
            for worker in map(self._fleet.at, homes(adapter.digest, columns.numbers, among, count).tolist())
            if worker.tier(adapter.digest) is ResidencyTier.NONE
        ]
        told = sorted(lacking, key=_worker_id)[: max(0, max_moves)]
        for worker in told:
            self._dispatcher.hint(adapter, worker)
        return len(told)


def _worker_id(worker: Worker) -> str:
    return worker.worker_id
