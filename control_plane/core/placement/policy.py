"""A placement policy: filters, then weighted scorers, then a picker."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from control_plane.core.placement.filters.adapter_fits import AdapterFits
from control_plane.core.placement.filters.sequence_fits import SequenceFits
from control_plane.core.placement.pickers.max_score import MaxScore
from control_plane.core.placement.plugin import Filter, Picker, PlacementRequest, Rng, ScoredWorker, Scorer, WorkerView
from control_plane.core.placement.scorers.adapter_residency import AdapterResidency
from control_plane.core.placement.scorers.free_pages import FreePages
from control_plane.core.placement.scorers.load import Load
from control_plane.core.placement.scorers.pending_prefill import PendingPrefill


@dataclass(frozen=True, slots=True)
class WeightedScorer:
    """A scorer and how much it counts, at least 0."""

    scorer: Scorer
    weight: float


@dataclass(frozen=True, slots=True)
class Score:
    """What one scorer said of a worker."""

    scorer: str
    weight: float
    value: float


@dataclass(frozen=True, slots=True)
class WorkerVerdict:
    """What a policy said of a worker: the filters that refused it, or its scores and their weighted mean."""

    worker_id: str
    refused_by: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole decision; `worker_id` is None if every worker was refused."""

    worker_id: str | None
    picker: str
    verdicts: tuple[WorkerVerdict, ...] = ()


def _default_scorers() -> tuple[WeightedScorer, ...]:
    scorers = ((AdapterResidency(), 2.0), (Load(), 4.0), (PendingPrefill(), 1.0), (FreePages(), 1.0))
    return tuple(WeightedScorer(scorer, weight) for scorer, weight in scorers)


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Filters in order, scorers with at least one positive weight, and a picker."""

    filters: tuple[Filter, ...] = (AdapterFits(), SequenceFits())
    scorers: tuple[WeightedScorer, ...] = field(default_factory=_default_scorers)
    picker: Picker = field(default_factory=MaxScore)

    def choose(self, request: PlacementRequest, workers: Iterable[WorkerView], rng: Rng) -> str | None:
        """The id of the worker that gets the request; None if the filters refuse every one."""
        # Plain loops: this runs for every worker and request.
        admits = [each.admits for each in self.filters]
        scored = []
        for worker in workers:
            for is_admitted in admits:
                if not is_admitted(request, worker):
                    break
            else:
                scored.append(ScoredWorker(worker.worker_id, self._total(request, worker)))
        return self._pick(scored, rng)

    def is_placeable(self, request: PlacementRequest, workers: Iterable[WorkerView]) -> bool:
        """Whether some worker could take the request once it has room: only lasting filters are asked."""
        lasting = [each for each in self.filters if each.is_lasting]
        return any(all(each.admits(request, worker) for each in lasting) for worker in workers)

    def explain(self, request: PlacementRequest, workers: Iterable[WorkerView], rng: Rng) -> Explanation:
        """The decision that `choose` would make with the same chance, and everything that led to it."""
        verdicts = self.verdicts(request, workers)
        scored = [ScoredWorker(verdict.worker_id, verdict.total) for verdict in verdicts if not verdict.refused_by]
        return Explanation(self._pick(scored, rng), self.picker.name, verdicts)

    def verdicts(self, request: PlacementRequest, workers: Iterable[WorkerView]) -> tuple[WorkerVerdict, ...]:
        """What the filters and scorers say of each worker, by id."""
        return tuple(sorted((self._verdict(request, worker) for worker in workers), key=_worker_id))

    def _pick(self, scored: Sequence[ScoredWorker], rng: Rng) -> str | None:
        if not scored:
            return None
        return self.picker.pick(sorted(scored, key=_worker_id), rng).worker_id

    def _total(self, request: PlacementRequest, worker: WorkerView) -> float:
        weighted = total_weight = 0.0
        for each in self.scorers:
            weight = each.weight
            weighted += weight * each.scorer.score(request, worker)
            total_weight += weight
        return weighted / total_weight

    def _verdict(self, request: PlacementRequest, worker: WorkerView) -> WorkerVerdict:
        refused_by = tuple(each.name for each in self.filters if not each.admits(request, worker))
        if refused_by:
            return WorkerVerdict(worker.worker_id, refused_by)
        scores = tuple(
            Score(each.scorer.name, each.weight, each.scorer.score(request, worker)) for each in self.scorers
        )
        return WorkerVerdict(worker.worker_id, (), scores, self._total(request, worker))


def _worker_id(worker: ScoredWorker | WorkerVerdict) -> str:
    return worker.worker_id
