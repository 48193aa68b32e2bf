"""What the fleet as a whole can do for the next request."""

import numpy as np

from control_plane.core.columns import FleetColumns, TierLevel
from control_plane.core.cost import Room
from control_plane.core.rows import Bools
from control_plane.core.types import ResidencyTier

_TIERS = {level.value: ResidencyTier[level.name] for level in TierLevel}


class Outlook:
    """The workers that take requests, now or when a place is freed."""

    def __init__(self, columns: FleetColumns) -> None:
        self._columns = columns
        self._accepting: Bools = columns.window > 0
        self.num_workers = int(np.count_nonzero(self._accepting))
        self.num_places = int(columns.window.sum())
        self.num_free = int(np.maximum(columns.window - columns.num_in_flight, 0).sum())

    @property
    def is_idle(self) -> bool:
        """Whether there is none, or one without any request."""
        return not self.num_workers or bool((self._columns.num_in_flight[self._accepting] == 0).any())

    @property
    def room(self) -> Room:
        """What a worker has on average."""
        columns = self._columns
        known = self._accepting & (columns.pool_tokens > 0)
        places = self.num_places / self.num_workers if self.num_workers else 0.0
        if not known.any():
            return Room(places)
        return Room(places, float(columns.pool_tokens[known].mean()), float(columns.token_bytes[known].mean()))

    @property
    def prefill_tokens_per_s(self) -> float:
        """The mean of the rates that are known; 0 if none is."""
        rates = self._columns.prefill_tokens_per_s[self._accepting]
        known = rates[rates > 0]
        return float(known.mean()) if known.size else 0.0

    def prefill_s(self, num_tokens: int, *, is_alone: bool) -> float:
        """Least time for a prompt: alone, or behind the prompts that are there. 0 if a rate is not known."""
        columns = self._columns
        rates = columns.prefill_tokens_per_s[self._accepting]
        if not rates.size or not (rates > 0).all():
            return 0.0
        pending = 0 if is_alone else columns.pending_prefill_tokens[self._accepting]
        return float(((pending + num_tokens) / rates).min())

    def tier(self, digest: str | None) -> ResidencyTier:
        """Where an adapter is on the worker that is best off; POOL for the base model."""
        if digest is None:
            return ResidencyTier.POOL
        tiers = self._columns.tiers(digest)[self._accepting]
        return _TIERS[int(tiers.max())] if tiers.size else ResidencyTier.NONE

    def is_in_use(self, digest: str | None) -> bool:
        """Whether requests in flight use the adapter, so that one more takes no more of a pool for it."""
        return digest is None or bool((self._accepting & self._columns.using(digest)).any())
