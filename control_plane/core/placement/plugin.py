"""What filters, scorers and pickers are, and what they see."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from control_plane.core.types import Request, ResidencyTier, WorkerStatus


class Rng(Protocol):
    """A source of chance; `random.Random` is one."""

    def random(self) -> float:
        """A number in [0, 1)."""


class WorkerView(Protocol):
    """What placement may know of a worker."""

    @property
    def worker_id(self) -> str:
        """The worker's id."""

    @property
    def status(self) -> WorkerStatus:
        """What it last reported."""

    @property
    def load(self) -> float:
        """Share of its window that is taken, in [0, 1]."""

    @property
    def pending_prefill_tokens(self) -> int:
        """Prompt tokens still to be computed there."""

    @property
    def mean_log2_rank(self) -> float | None:
        """Mean log2 of the adapter ranks in flight there; None if there are none."""

    def tier(self, digest: str) -> ResidencyTier:
        """Where an adapter is on it."""


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """A request as placement sees it, with the output that an earlier worker produced."""

    request: Request
    num_resumed_tokens: int = 0

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens to compute before the next one is produced."""
        return len(self.request.prompt_token_ids) + self.num_resumed_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output at the most."""
        return len(self.request.prompt_token_ids) + self.request.max_tokens


@dataclass(frozen=True, slots=True)
class ScoredWorker:
    """A worker with its weighted mean score, in [0, 1]."""

    worker_id: str
    score: float


class Filter(Protocol):
    """Says which workers can take a request. A lasting verdict stays the same until a worker joins or changes."""

    name: ClassVar[str]
    is_lasting: ClassVar[bool]

    def admits(self, request: PlacementRequest, worker: WorkerView) -> bool:
        """Whether the worker can take the request."""


class Scorer(Protocol):
    """Says how good a worker is for a request."""

    name: ClassVar[str]

    def score(self, request: PlacementRequest, worker: WorkerView) -> float:
        """From 0, worst, to 1, best; of this worker alone, whatever the others are."""


class Picker(Protocol):
    """Chooses one of the scored workers."""

    name: ClassVar[str]

    def pick(self, scored: Sequence[ScoredWorker], rng: Rng) -> ScoredWorker:
        """One of `scored`, which is not empty and is ordered by worker id."""
