"""Everything that watches a director, put together."""

import asyncio
from collections.abc import Callable

from control_plane.config import MetricsConfig
from control_plane.core.director import Director
from control_plane.observation.exposition import Exposition, MetricsServer, Reading
from control_plane.observation.metrics import Metrics
from control_plane.observation.observer import Observer
from control_plane.observation.recent import RecentRequests
from control_plane.observation.record import RequestRecord
from control_plane.types import PolicyVersion


class Observation:
    """The core to drive in the director's place, what it remembers, and the metrics' port."""

    def __init__(
        self, director: Director, config: MetricsConfig, *, max_recent: int, clock: Callable[[], float]
    ) -> None:
        """`clock` is the one whose times the director gets."""
        self._director = director
        self._config = config
        self._clock = clock
        self._metrics = Metrics(config.max_adapters, config.max_tenants)
        self._server: MetricsServer | None = None
        self.recent = RecentRequests(max_recent)
        self.core = Observer(director, (self._metrics, self.recent), policy_digest=director.policy.digest)

    @property
    def address(self) -> str:
        """Where the metrics are served; empty if nowhere."""
        return self._server.address if self._server is not None else ""

    def find(self, request_id: str) -> RequestRecord | None:
        """The record of a request in flight, or of one that ended lately."""
        return self.core.live.get(request_id) or self.recent.get(request_id)

    def serve(
        self,
        *,
        policy: Callable[[], PolicyVersion],
        num_chunks: Callable[[], int],
        is_state_reachable: Callable[[], bool],
    ) -> None:
        """Serves the metrics if they are to be, from the running loop; the arguments tell the rest. Raises OSError."""

        def read() -> Reading:
            return Reading(
                metrics=self._metrics.snapshot(self.core.live, self._clock()),
                director=self._director.snapshot(with_residency=False),
                policy=policy(),
                num_output_tokens=self.core.num_output_tokens,
                num_chunks=num_chunks(),
                is_state_reachable=is_state_reachable(),
            )

        if self._config.listen:
            self._server = MetricsServer(Exposition(read, asyncio.get_running_loop()), self._config.listen)

    async def rotate_forever(self) -> None:
        """Lets labels follow the traffic."""
        while True:
            await asyncio.sleep(self._config.rotate_interval_s)
            self._metrics.rotate()

    async def close(self) -> None:
        """Ends the metrics' port."""
        if self._server is not None:
            # A scrape under way waits for this loop.
            await asyncio.to_thread(self._server.close)
