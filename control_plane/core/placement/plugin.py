"""What filters, scorers and pickers are, and what they see.

All look at every worker at once: the fleet's columns have one row for each, and what a plugin returns has as many.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from control_plane.core.columns import FleetColumns
from control_plane.core.rows import Bools, Floats
from control_plane.core.types import AdapterRef, Request


class Rng(Protocol):
    """A source of chance; `random.Random` is one."""

    def random(self) -> float:
        """A number in [0, 1)."""


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """A request as placement sees it: with the output that an earlier worker produced, at a time."""

    request: Request
    num_resumed_tokens: int = 0
    now: float = 0.0

    @property
    def adapter(self) -> AdapterRef | None:
        """Its adapter; None for the base model."""
        return self.request.adapter

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens to compute before the next one is produced."""
        return len(self.request.prompt_token_ids) + self.num_resumed_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and output at the most."""
        return len(self.request.prompt_token_ids) + self.request.max_tokens


class Filter(Protocol):
    """Says which workers can take a request."""

    name: ClassVar[str]
    is_lasting: ClassVar[bool]
    """Whether a verdict stays the same until a worker joins or changes."""
    is_of_request: ClassVar[bool]
    """Whether requests get different verdicts at the same time."""

    def admits(self, request: PlacementRequest, fleet: FleetColumns) -> Bools:
        """Whether each worker can take the request."""


class Scorer(Protocol):
    """Says how good each worker is for a request."""

    name: ClassVar[str]

    def score(self, request: PlacementRequest, fleet: FleetColumns, among: Bools) -> Floats:
        """From 0, worst, to 1, best; `among` holds the rows that the filters left, of which one will be chosen."""


class Picker(Protocol):
    """Chooses one of the workers that the filters left."""

    name: ClassVar[str]

    def pick(self, scores: Floats, rng: Rng) -> int:
        """An index into `scores`, which is not empty and is ordered by worker id."""
