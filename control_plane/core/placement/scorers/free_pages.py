"""Prefer workers with room for KV."""

from dataclasses import dataclass
from typing import ClassVar

from control_plane.core.placement.plugin import PlacementRequest, WorkerView


@dataclass(frozen=True, slots=True)
class FreePages:
    """Scores the share of the page pool that holds no KV; adapters not in use make room.

    A worker that has not told its pool's size scores 0.
    """

    name: ClassVar[str] = "free_pages"

    def score(self, request: PlacementRequest, worker: WorkerView) -> float:  # noqa: ARG002  (any request)
        """The share without KV."""
        status = worker.status
        if status.total_pages <= 0:
            return 0.0
        return min(1.0, max(0.0, 1.0 - status.kv_pages / status.total_pages))
