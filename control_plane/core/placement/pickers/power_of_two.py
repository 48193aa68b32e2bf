"""Take the better of two workers drawn by chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import Rng, ScoredWorker


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """Draws two different workers and takes the one that scores higher, the first by id if they tie.

    Robust where what is known of the workers is old; ignores most of what scorers know.
    """

    name: ClassVar[str] = "power_of_two"

    def pick(self, scored: Sequence[ScoredWorker], rng: Rng) -> ScoredWorker:
        """The better of two."""
        if len(scored) == 1:
            return scored[0]
        first = int(rng.random() * len(scored))
        second = int(rng.random() * (len(scored) - 1))
        if second >= first:
            second += 1
        low, high = sorted((first, second))
        return scored[high] if scored[high].score > scored[low].score else scored[low]
