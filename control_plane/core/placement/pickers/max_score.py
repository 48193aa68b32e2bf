"""Take the best worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import Rng, ScoredWorker


@dataclass(frozen=True, slots=True)
class MaxScore:
    """Takes the worker with the highest score; of equals the first by id."""

    name: ClassVar[str] = "max_score"

    def pick(self, scored: Sequence[ScoredWorker], rng: Rng) -> ScoredWorker:  # noqa: ARG002  (no chance)
        """The best."""
        return max(scored, key=_score)


def _score(worker: ScoredWorker) -> float:
    return worker.score
