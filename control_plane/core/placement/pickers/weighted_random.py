"""Take a worker by chance, better ones more often."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import Rng
from control_plane.core.rows import Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class WeightedRandom:
    """Takes a worker with a probability proportional to its score to the power `sharpness`; any if all score 0.

    Several control planes that see the same fleet then do not all choose the same worker.
    """

    name: ClassVar[str] = "weighted_random"
    sharpness: float = bounded(4.0, 0.0, 64.0)

    def pick(self, scores: Floats, rng: Rng) -> int:
        """One by chance."""
        ends = (scores**self.sharpness).cumsum()
        total = float(ends[-1])
        if total <= 0.0:
            return int(rng.random() * len(scores))
        # To the right of the point: a worker with no chance is never taken, nor is the end passed.
        return min(int(ends.searchsorted(rng.random() * total, side="right")), int(ends.searchsorted(total)))
