"""One way to place requests: filters, then weighted scorers, then a picker."""

from dataclasses import dataclass, field

import numpy as np

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.explanation import Explanation, Score, WorkerVerdict
from control_plane.core.placement.filters.adapter_fits import AdapterFits
from control_plane.core.placement.filters.sequence_fits import SequenceFits
from control_plane.core.placement.gates import GATES, HAS_ROOM
from control_plane.core.placement.pickers.max_score import MaxScore
from control_plane.core.placement.plugin import Filter, Picker, PlacementRequest, Rng, Scorer
from control_plane.core.placement.scorers.adapter_residency import AdapterResidency
from control_plane.core.placement.scorers.free_pages import FreePages
from control_plane.core.placement.scorers.load import Load
from control_plane.core.placement.scorers.pending_prefill import PendingPrefill
from control_plane.core.rows import Bools, Floats


@dataclass(frozen=True, slots=True)
class WeightedScorer:
    """A scorer and how much it counts, at least 0."""

    scorer: Scorer
    weight: float


def _default_scorers() -> tuple[WeightedScorer, ...]:
    scorers = ((AdapterResidency(), 2.0), (Load(), 4.0), (PendingPrefill(), 1.0), (FreePages(), 1.0))
    return tuple(WeightedScorer(scorer, weight) for scorer, weight in scorers)


@dataclass(frozen=True, slots=True)
class OpenWorkers:
    """What the filters that treat all requests alike leave: now, and once requests have ended."""

    now: Bools
    later: Bools


@dataclass(frozen=True, slots=True)
class Profile:
    """Filters in order, scorers with at least one positive weight, and a picker.

    The gates are asked before the filters. What concerns workers is an array with a value for each row of the fleet's
    columns; `among` says which rows may be considered at all.
    """

    filters: tuple[Filter, ...] = (AdapterFits(), SequenceFits())
    scorers: tuple[WeightedScorer, ...] = field(default_factory=_default_scorers)
    picker: Picker = field(default_factory=MaxScore)
    name: str = "default"
    asked: tuple[Filter, ...] = field(init=False, repr=False, compare=False)
    """The gates and the filters, but for the free place, which is for `among` to say."""
    _lasting_of_fleet: tuple[Filter, ...] = field(init=False, repr=False, compare=False)
    _passing_of_fleet: tuple[Filter, ...] = field(init=False, repr=False, compare=False)
    _of_request: tuple[Filter, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        named = {each.name: each for each in self.filters if each.name != HAS_ROOM.name}
        gates = [named.pop(gate.name, gate) for gate in GATES]
        asked = (*gates, *named.values())
        object.__setattr__(self, "asked", asked)
        of_fleet = [each for each in asked if not each.is_of_request]
        object.__setattr__(self, "_lasting_of_fleet", tuple(each for each in of_fleet if each.is_lasting))
        object.__setattr__(self, "_passing_of_fleet", tuple(each for each in of_fleet if not each.is_lasting))
        object.__setattr__(self, "_of_request", tuple(each for each in asked if each.is_of_request))

    def choose(
        self, request: PlacementRequest, fleet: FleetColumns, among: Bools, rng: Rng, opened: OpenWorkers | None = None
    ) -> int | None:
        """The row of the worker that gets the request; None if there is none.

        `opened` is what `open` said at the same moment, of any request.
        """
        left = among & (opened or self.open(request, fleet)).now
        if not left.any():
            return None
        for each in self._of_request:
            left = left & each.admits(request, fleet)
        rows = fleet.order[left[fleet.order]]
        if not rows.size:
            return None
        return int(rows[self.picker.pick(self._totals(request, fleet, left)[rows], rng)])

    def open(self, request: PlacementRequest, fleet: FleetColumns) -> OpenWorkers:
        """The workers that the filters leave that treat all requests of a moment alike."""
        later = fleet.is_attached
        for each in self._lasting_of_fleet:
            later = later & each.admits(request, fleet)
        now = later
        for each in self._passing_of_fleet:
            now = now & each.admits(request, fleet)
        return OpenWorkers(now, later)

    def emptied_by(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> str | None:
        """The filter that refuses the last worker left; None if some are left, or there were none."""
        left = among
        for each in self.asked:
            still_left = left & each.admits(request, fleet)
            if not still_left.any():
                return each.name if left.any() else None
            left = still_left
        return None

    def able(
        self, request: PlacementRequest, fleet: FleetColumns, among: Bools, opened: OpenWorkers | None = None
    ) -> Bools:
        """The workers that could take the request once others have ended: only lasting filters are asked."""
        left = among & (opened or self.open(request, fleet)).later
        for each in self._of_request:
            if each.is_lasting:
                left = left & each.admits(request, fleet)
        return left

    def uses(self, scorer_name: str) -> bool:
        """Whether a scorer is one of the profile's."""
        return any(each.scorer.name == scorer_name for each in self.scorers)

    def explain(self, request: PlacementRequest, fleet: FleetColumns, rng: Rng) -> Explanation:
        """The decision of now among all attached workers, with everything that led to it."""
        verdicts = self.verdicts(request, fleet)
        row = self.choose(request, fleet, fleet.has_room, rng)
        emptied_by = None
        if row is None and verdicts:
            # Room says something of workers in service only.
            among = fleet.has_room if (fleet.window > 0).any() else fleet.is_attached
            emptied_by = self.emptied_by(request, fleet, among) or HAS_ROOM.name
        worker_id = None if row is None else fleet.worker_id(row)
        return Explanation(worker_id, self.picker.name, verdicts, self.name, emptied_by)

    def verdicts(self, request: PlacementRequest, fleet: FleetColumns) -> tuple[WorkerVerdict, ...]:
        """What the filters and scorers say of each attached worker, by id."""
        gates = [(each.name, each.admits(request, fleet)) for each in self.asked]
        asked = [(HAS_ROOM.name, _not_full(fleet)), *gates]
        left = np.logical_and.reduce([fleet.is_attached, fleet.has_room, *(admitted for _, admitted in gates)])
        scored = [(each.scorer.name, each.weight, each.scorer.score(request, fleet, left)) for each in self.scorers]
        totals = self._totals(request, fleet, left)
        return tuple(
            WorkerVerdict(
                fleet.worker_id(row),
                tuple(name for name, admitted in asked if not admitted[row]),
                tuple(Score(name, weight, float(values[row])) for name, weight, values in scored),
                float(totals[row]),
            )
            for row in fleet.order.tolist()
        )

    def _totals(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Each worker's weighted mean."""
        first, *others = self.scorers
        weighted = first.weight * first.scorer.score(request, fleet, among)
        scaled = np.empty_like(weighted)
        total_weight = first.weight
        for each in others:
            np.multiply(each.weight, each.scorer.score(request, fleet, among), out=scaled)
            weighted += scaled
            total_weight += each.weight
        weighted /= total_weight
        return weighted


def _not_full(fleet: FleetColumns) -> Bools:
    """Whether a worker has room, or would have it were it in service: one that is not is refused by lease or drain."""
    return fleet.has_room | (fleet.window <= 0)
