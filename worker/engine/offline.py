"""An engine without a server: for tests, benchmarks and experiments."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from worker.adapters.packing import pack_weights
from worker.adapters.weights import parse_weights
from worker.engine.build import build_engine
from worker.engine.config import EngineConfig
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import AdapterLayout, PageGeometry
from worker.memory.storage import page_size_bytes
from worker.model.loader import LoadedModel
from worker.types import (
    EngineRequest,
    FinishReason,
    HostedAdapter,
    PositionLogprobs,
    RequestFailure,
    SequenceOutput,
    StepResult,
)


@dataclass(slots=True)
class Generation:
    """What became of a request: `finish_reason` or `failure` is set once it ended."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    failure: RequestFailure | None = None

    def extend(self, output: SequenceOutput) -> None:
        """Take the next output of the request."""
        self.token_ids += output.token_ids
        self.logprobs += output.logprobs
        self.finish_reason = output.finish_reason


class OfflineEngine:
    """An engine in this process, whose adapters come from memory and stay in a host arena until `close`."""

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        *,
        pool_bytes: int,
        host_bytes: int,
    ) -> None:
        """Allocates the pool and the arena.

        Raises:
            PoolTooSmall, HostArenaUnusable: a budget does not hold what it must.
        """
        self._model = model
        self._geometry = PageGeometry(model.config.shape, config.block_size)
        dtype = model.decoder.dtype
        num_host_pages = host_bytes // page_size_bytes(self._geometry, dtype)
        self._file = ArenaFile.create()
        self._arena = HostArena.create(self._file, num_host_pages, self._geometry, dtype)
        self._num_hosted_pages = 0
        self._hosted: dict[str, HostedAdapter] = {}
        self.engine = build_engine(model, self._arena, config, pool_bytes=pool_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the arena."""
        self._file.close()

    def host(self, weights: bytes, base_model: str) -> HostedAdapter:
        """Pack a canonical weights file (see AdapterService.FetchWeights) into the arena, once for each digest.

        Raises:
            WorkerError: the file cannot be used with this model.
        """
        digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
        if digest not in self._hosted:
            parsed = parse_weights(weights, self._model.config.shape, base_model)
            pages = self._next_host_pages(parsed.layout)
            layout = pack_weights(parsed, self._arena, pages)
            self._hosted[digest] = HostedAdapter(digest, layout, pages)
        return self._hosted[digest]

    def _next_host_pages(self, layout: AdapterLayout) -> tuple[int, ...]:
        first = self._num_hosted_pages
        pages = tuple(range(first, first + layout.num_pages(self._geometry)))
        assert pages[-1] < self._arena.num_pages, "the arena is full: give the engine more host_bytes"
        self._num_hosted_pages += len(pages)
        return pages

    def generate(
        self,
        requests: Iterable[EngineRequest],
        *,
        arrivals_per_step: int | None = None,
        on_step: Callable[[StepResult], None] | None = None,
    ) -> dict[str, Generation]:
        """Run requests to their ends.

        Args:
            requests: In the order of their arrival.
            arrivals_per_step: How many arrive before each step; None: all before the first.
            on_step: Sees each step's result.

        Returns:
            What became of each, by request id.
        """
        coming = deque(requests)
        generations = {request.request_id: Generation() for request in coming}
        while coming or self.engine.has_work:
            for _ in range(min(len(coming), arrivals_per_step or len(coming))):
                self.engine.add(coming.popleft())
            result = self.engine.step()
            for output in result.outputs:
                generations[output.request_id].extend(output)
            for failure in result.failures:
                generations[failure.request_id].failure = failure
            if on_step is not None:
                on_step(result)
        return generations
