"""How often each adapter is asked for, and how many workers that is worth."""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from control_plane.core.settings import bounded
from control_plane.core.types import Request

# Adapters whose rate is kept; those beyond it that were asked for longest ago count as never asked for.
_MAX_ADAPTERS = 100_000


@dataclass(frozen=True, slots=True)
class ReplicationSettings:
    """How many workers an adapter is kept on, by how often it is asked for."""

    worker_requests_per_s: float = bounded(8.0, 0.001, 1e6)
    """Requests for one adapter that one worker is to take; each time so many more make it belong on one more worker."""
    max_workers: int = bounded(8, 1, 100_000)
    half_life_s: float = bounded(30.0, 0.1, 86_400.0)
    """After how long a request counts half in its adapter's rate."""
    interval_s: float = bounded(1.0, 0.05, 3600.0)
    """How often workers are told to fetch adapters that belong on them."""
    max_moves: int = bounded(16, 0, 10_000)
    """How many adapters they are told of each time."""


@dataclass(slots=True)
class _Asked:
    """Requests for an adapter, each counting half as much after every half-life, as of `at`.

    One of them stands for all; it has no prompt, for its tokens would be kept with it.
    """

    example: Request
    count: float
    at: float


class Demand:
    """Measures each adapter's request rate: by it hot adapters get more workers, and cold ones one."""

    def __init__(self, settings: ReplicationSettings) -> None:
        self.settings = settings
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._hot: dict[str, None] = {}

    def note(self, request: Request, now: float) -> None:
        """A request arrived."""
        adapter = request.adapter
        if adapter is None:
            return
        asked = self._asked.get(adapter.digest)
        if asked is None:
            asked = self._asked[adapter.digest] = _Asked(replace(request, prompt_token_ids=()), 0.0, now)
            if len(self._asked) > _MAX_ADAPTERS:
                forgotten, _ = self._asked.popitem(last=False)
                self._hot.pop(forgotten, None)
        asked.count = self._count(asked, now) + 1.0
        asked.at = now
        self._asked.move_to_end(adapter.digest)
        if self.num_workers(adapter.digest, now) > 1:
            self._hot[adapter.digest] = None

    def rate(self, digest: str, now: float) -> float:
        """Requests for an adapter per second, lately."""
        asked = self._asked.get(digest)
        return self._count(asked, now) * math.log(2.0) / self.settings.half_life_s if asked is not None else 0.0

    def num_workers(self, digest: str, now: float) -> int:
        """On how many workers an adapter belongs: on one, or on as many as its rate keeps busy, within bounds."""
        if self.settings.max_workers == 1:
            return 1
        wanted = math.ceil(self.rate(digest, now) / self.settings.worker_requests_per_s)
        return max(1, min(wanted, self.settings.max_workers))

    def hot(self, now: float) -> list[Request]:
        """A request for each adapter that belongs on more than one worker, hottest first."""
        self._hot = {digest: None for digest in self._hot if self.num_workers(digest, now) > 1}
        return self._examples(self._hot, now)

    def warm(self, digests: Iterable[str], now: float) -> list[Request]:
        """A request for each of these adapters that was asked for within about a half-life, hottest first."""
        found = {digest: self._asked[digest] for digest in digests if digest in self._asked}
        return self._examples((digest for digest, asked in found.items() if self._count(asked, now) >= 0.5), now)

    def _examples(self, digests: Iterable[str], now: float) -> list[Request]:
        ranked = sorted(digests, key=lambda digest: (-self.rate(digest, now), digest))
        return [self._asked[digest].example for digest in ranked]

    def _count(self, asked: _Asked, now: float) -> float:
        return float(asked.count * 0.5 ** ((now - asked.at) / self.settings.half_life_s))
