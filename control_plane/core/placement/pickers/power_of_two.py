"""Take the better of two workers drawn by chance."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import Rng
from control_plane.core.rows import Floats


@dataclass(frozen=True, slots=True)
class PowerOfTwo:
    """Draws two different workers and takes the one that scores higher, the first by id if they tie.

    Robust where what is known of the workers is old; ignores most of what scorers know.
    """

    name: ClassVar[str] = "power_of_two"

    def pick(self, scores: Floats, rng: Rng) -> int:
        """The better of two."""
        if len(scores) == 1:
            return 0
        first = int(rng.random() * len(scores))
        second = int(rng.random() * (len(scores) - 1))
        if second >= first:
            second += 1
        low, high = sorted((first, second))
        return high if scores[high] > scores[low] else low
