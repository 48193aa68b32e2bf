"""What the worker says of itself."""

from dataclasses import replace

from worker.serving.residency import ResidencyBoard, ResidencyChanges
from worker.types import EngineStats, WorkerStatus

_STEP_MS_WEIGHT = 0.1  # of the newest step in the moving mean


class StatusBoard:
    """The worker's state: what never changes of it, what the last step said, and where adapters are."""

    def __init__(self, fixed: WorkerStatus, board: ResidencyBoard) -> None:
        self.board = board
        self._fixed = fixed
        self._stats = fixed.stats
        self._step_ms = 0.0

    def note(self, stats: EngineStats) -> None:
        """A step ended."""
        self._stats = stats
        if self._step_ms:
            self._step_ms += _STEP_MS_WEIGHT * (stats.step_ms - self._step_ms)
        else:
            self._step_ms = stats.step_ms

    def read(self, changes: ResidencyChanges) -> WorkerStatus:
        """The state for one onlooker, who has heard it then."""
        return replace(
            self._fixed,
            stats=replace(self._stats, step_ms=self._step_ms),
            is_residency_snapshot=changes.is_snapshot_due,
            residency=self.board.take(changes),
        )
