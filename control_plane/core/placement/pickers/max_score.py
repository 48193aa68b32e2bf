"""Take the best worker."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import Rng
from control_plane.core.rows import Floats


@dataclass(frozen=True, slots=True)
class MaxScore:
    """Takes the worker with the highest score; of equals the first by id."""

    name: ClassVar[str] = "max_score"

    def pick(self, scores: Floats, rng: Rng) -> int:
        """The best."""
        return int(scores.argmax())
