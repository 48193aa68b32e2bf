"""Take a worker by chance, better ones more often."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import Rng, ScoredWorker
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class WeightedRandom:
    """Takes a worker with a probability proportional to its score to the power `sharpness`; any if all score 0.

    Several control planes that see the same fleet then do not all choose the same worker.
    """

    name: ClassVar[str] = "weighted_random"
    sharpness: float = bounded(4.0, 0.0, 64.0)

    def pick(self, scored: Sequence[ScoredWorker], rng: Rng) -> ScoredWorker:
        """One by chance."""
        chances = [worker.score**self.sharpness for worker in scored]
        total = sum(chances)
        if total <= 0.0:
            return scored[int(rng.random() * len(scored))]
        point = rng.random() * total
        for worker, chance in zip(scored, chances, strict=True):
            point -= chance
            if point < 0.0:
                return worker
        return scored[-1]
