"""What a request costs to serve: a share of a worker, for as long as its output takes."""

from dataclasses import dataclass

from control_plane.core.estimators import Ewma
from control_plane.core.types import Request


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker of the fleet has, on average: the two things of which requests take a share while they run."""

    places: float = 0.0
    tokens: float = 0.0
    """Tokens of KV that the pool holds; 0 if not known."""
    token_bytes: float = 0.0

    def share(self, num_tokens: float) -> float:
        """The share of a worker that a request takes: of its places or of its pool, the scarcer counts."""
        of_places = 1.0 / self.places if self.places > 0 else 0.0
        of_pool = num_tokens / self.tokens if self.tokens > 0 else 0.0
        return max(of_places, of_pool)


class ServiceCost:
    """Learns how long a place is held for each output token, and how much of the output asked for is produced.

    cost = output * share of the worker + prompt / (prefill rate * hold per token),
    where the share is of places or of the pool: prompt + output / 2 + the adapter, if nothing else runs with it. The
    unit is the time of a token on a whole worker, so that costs of different times may be added.
    """

    def __init__(self) -> None:
        self._hold_per_token = Ewma()
        self._output_share = Ewma()
        self._mean = Ewma()

    @property
    def mean(self) -> float:
        """Mean cost of what arrived; 0 before anything did."""
        return self._mean.value or 0.0

    def num_output_tokens(self, request: Request) -> float:
        """The output that a request is expected to produce."""
        return max(1.0, request.max_tokens * (self._output_share.value or 1.0))

    def of(self, request: Request, room: Room, *, prefill_tokens_per_s: float, is_resident: bool) -> float:
        """A request's expected cost; above 0."""
        num_output, num_prompt = self.num_output_tokens(request), len(request.prompt_token_ids)
        num_tokens = num_prompt + num_output / 2
        if request.adapter is not None and not is_resident and room.token_bytes > 0:
            num_tokens += request.adapter.size_bytes / room.token_bytes
        prefilled_per_hold = prefill_tokens_per_s * (self._hold_per_token.value or 0.0)
        prefill = num_prompt / prefilled_per_hold if prefilled_per_hold > 0 else 0.0
        return num_output * (room.share(num_tokens) or 1.0) + prefill

    def arrived(self, cost: float, weight: float) -> None:
        """A request of this cost came."""
        self._mean.add(cost, weight)

    def finished(
        self, request: Request, num_output_tokens: int, *, num_resumed_tokens: int, held_s: float, weight: float
    ) -> None:
        """A request ran to its end: how long its last place was held, for all of its output but what it began with."""
        num_produced = num_output_tokens - num_resumed_tokens
        if num_produced > 0:
            self._hold_per_token.add(held_s / num_produced, weight)
        if num_output_tokens > 0:
            self._output_share.add(min(1.0, num_output_tokens / request.max_tokens), weight)
