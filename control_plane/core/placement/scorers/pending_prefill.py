"""Prefer workers with few prompts to compute."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.columns import FleetColumns
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.rows import Bools, Floats
from control_plane.core.settings import bounded


@dataclass(frozen=True, slots=True)
class PendingPrefill:
    """Scores by the prompt tokens that wait on the worker: 1 for none, 1/2 for `tokens`.

    What waits there delays the first token.
    """

    name: ClassVar[str] = "pending_prefill"
    tokens: float = bounded(2048.0, 1.0, 1e9)

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """Falls with the tokens pending."""
        return self.tokens / (self.tokens + fleet.pending_prefill_tokens)
