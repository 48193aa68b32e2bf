"""Finding workers for the requests whose turn it is, by the policy in force."""

import numpy as np

from control_plane.core.clustering import Candidate
from control_plane.core.dispatch import Dispatcher
from control_plane.core.errors import NoWorker
from control_plane.core.fairness import Fairness
from control_plane.core.fleet import Fleet, Worker
from control_plane.core.ledger import TrackedRequest
from control_plane.core.placement.gates import HAS_ROOM
from control_plane.core.placement.plugin import PlacementRequest, Rng
from control_plane.core.placement.profile import OpenWorkers, Profile
from control_plane.core.placement.scorers.prefix_affinity import PrefixAffinity
from control_plane.core.policy import Policy
from control_plane.core.rows import Bools


class Placer:
    """Places candidates. What no worker with a free place may have is parked, and tried again when things change."""

    def __init__(self, policy: Policy, rng: Rng, *, fleet: Fleet, dispatcher: Dispatcher, fairness: Fairness) -> None:
        self.policy = policy
        self._rng = rng
        self._fleet = fleet
        self._dispatcher = dispatcher
        self.fairness = fairness
        # What each profile's filters leave at this moment, whatever the request: of many that none can take, those
        # after the first cost little. Forgotten whenever something happens.
        self._opened: dict[int, OpenWorkers] = {}
        # Workers, by row, that this pass keeps from tenants that got more than one who found no room in its turn.
        self._kept: dict[int, float] = {}

    def place(self, candidate: Candidate, now: float) -> bool:
        """Give a candidate to a worker; False if none of its workers may have it, and it was parked."""
        tracked = candidate.tracked
        among = self._unkept(tracked, self._unfailed(tracked, candidate.among))
        worker = self._choose(tracked, among, now)
        if worker is None:
            self._park(tracked, now)
            return False
        self._dispatcher.assign(tracked, worker, self.fairness, now)
        self._opened.clear()
        if self.policy.placement.profile_for(tracked.request).uses(PrefixAffinity.name):
            self._fleet.columns.prefixes.note(tracked.request, worker.row)
        return True

    def unpark(self, now: float) -> None:
        """Begin a pass: put parked requests back in the order, as many as it may fail to place."""
        self._opened.clear()
        self._kept.clear()
        queue = self._dispatcher.queue
        if not queue.num_parked or not self._fleet.has_open_worker:
            return
        for tracked in queue.parked(self.policy.dispatch.lookahead):
            if tracked.not_before > now:
                queue.park(tracked)
            else:
                queue.unpark(tracked)

    def hint_next(self, now: float) -> None:
        """Tell workers of the adapters of the requests that go next, each where it would be placed now."""
        queue, depth = self._dispatcher.queue, self.policy.dispatch.prefetch_depth
        if not depth or not len(queue):
            return
        for tracked in queue.first(depth):
            adapter = tracked.request.adapter
            if adapter is None or tracked.is_hinted:
                continue
            tracked.is_hinted = True
            worker = self._choose(tracked, self._others(tracked), now)
            if worker is not None:
                self._dispatcher.hint(adapter, worker)

    def without_worker(self, now: float) -> list[TrackedRequest]:
        """The waiting requests that no worker could take for longer than the grace time."""
        queue, grace_s = self._dispatcher.queue, self.policy.admission.no_worker_grace_s
        unable_since = self._fleet.unable_since
        if unable_since is not None:
            return [tracked for tracked in queue if now - max(unable_since, tracked.arrived_at) >= grace_s]
        return [
            tracked
            for tracked in queue
            if tracked.unplaceable_since is not None and now - tracked.unplaceable_since >= grace_s
        ]

    def no_worker(self, tracked: TrackedRequest, now: float) -> NoWorker:
        """The error of a request found to be without a worker."""
        request, columns = _placement_request(tracked, now), self._fleet.columns
        profile = self.policy.placement.profile_for(tracked.request)
        verdicts = profile.verdicts(request, columns)
        refused_by = sorted({name for verdict in verdicts for name in verdict.refused_by if name != HAS_ROOM.name})
        why = f"refused by {', '.join(refused_by)}" if refused_by else "none is attached"
        return NoWorker(
            f"no worker could take the request for {now - tracked.arrived_at:.3g} s ({why}): start a worker that can",
            metadata={
                "refused_by": ",".join(refused_by),
                "emptied_by": profile.emptied_by(request, columns, columns.is_attached) or "",
                "worker_count": str(len(verdicts)),
            },
            retry_after_s=self.policy.admission.default_retry_delay_s,
        )

    def _choose(self, tracked: TrackedRequest, among: Bools, now: float) -> Worker | None:
        request, columns = _placement_request(tracked, now), self._fleet.columns
        profile = self.policy.placement.profile_for(tracked.request)
        row = profile.choose(request, columns, among, self._rng, self._open(profile, request))
        return self._fleet.at(row) if row is not None else None

    def _open(self, profile: Profile, request: PlacementRequest) -> OpenWorkers:
        opened = self._opened.get(id(profile))
        if opened is None:
            opened = self._opened[id(profile)] = profile.open(request, self._fleet.columns)
        return opened

    def _park(self, tracked: TrackedRequest, now: float) -> None:
        self._dispatcher.queue.park(tracked)
        request, columns = _placement_request(tracked, now), self._fleet.columns
        profile = self.policy.placement.profile_for(tracked.request)
        able = profile.able(request, columns, self._others(tracked), self._open(profile, request))
        # What runs on a worker ends, and then it may be free to take the request; one that is idle stays as it is.
        able &= (columns.num_in_flight > 0) | (columns.num_reported > 0)
        if able.any():
            tracked.unplaceable_since = None
            self._keep(tracked, able)
        elif tracked.avoid:
            # Nobody else can take it: those that failed it get another chance.
            tracked.avoid = frozenset()
        elif tracked.unplaceable_since is None:
            tracked.unplaceable_since = now

    def _keep(self, tracked: TrackedRequest, able: Bools) -> None:
        """Let room gather for a request on one worker, so that tenants that got more do not pass it for ever."""
        rows = np.flatnonzero(able)
        row = int(rows[self._fleet.columns.load[rows].argmin()])
        self._kept.setdefault(row, self.fairness.counter(tracked.request.tenant))

    def _unkept(self, tracked: TrackedRequest, among: Bools) -> Bools:
        """Without the workers that are kept for tenants that got less."""
        if not self._kept:
            return among
        counter = self.fairness.counter(tracked.request.tenant)
        rows = [row for row, kept_at in self._kept.items() if counter > kept_at]
        if rows:
            among = among.copy()
            among[rows] = False
        return among

    def _others(self, tracked: TrackedRequest) -> Bools:
        """The workers that take requests, but for those that failed this one."""
        return self._unfailed(tracked, self._fleet.columns.window > 0)

    def _unfailed(self, tracked: TrackedRequest, among: Bools) -> Bools:
        """Without the workers that failed the request."""
        if tracked.avoid:
            among = among.copy()
            for worker_id in tracked.avoid:
                worker = self._fleet.get(worker_id)
                if worker is not None:
                    among[worker.row] = False
        return among


def _placement_request(tracked: TrackedRequest, now: float) -> PlacementRequest:
    return PlacementRequest(tracked.request, len(tracked.output_token_ids), now)
