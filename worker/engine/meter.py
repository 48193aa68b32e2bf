"""What an engine's steps came to: counts since its start, and where the time of the last step went."""

from collections.abc import Callable, Iterable
from enum import Enum

from worker.adapters.residency import Load, Residency
from worker.engine.scheduler import Plan, Scheduler
from worker.memory.pool import PagePool
from worker.types import EngineStats, StepTimes


class Part(Enum):
    """What a step's time goes to; the fields of `StepTimes`."""

    PLAN = "plan_ms"
    PACK = "pack_ms"
    LAUNCH = "launch_ms"
    WAIT = "wait_ms"
    EMIT = "emit_ms"


class Meter:
    """Counts and times steps. All that it does in a step takes some microseconds."""

    def __init__(self, page_bytes: int, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._page_bytes = page_bytes
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget all that was counted."""
        self.num_output_tokens = 0  # whoever gives a sequence its token adds one: no call for each
        self._num_prefill_tokens = 0
        self._num_loads = 0
        self._num_loaded_pages = 0
        self._last_step_s = 0.0
        self.begin()

    @property
    def last_step_s(self) -> float:
        """Seconds of the last step that `stats` told of."""
        return self._last_step_s

    def begin(self) -> None:
        """A step begins."""
        self._started = self._lap = self._clock()
        self._seconds = dict.fromkeys(Part, 0.0)
        self._num_sequences = self._num_rows = self._num_prefill_rows = 0

    def lap(self, part: Part) -> None:
        """The time since the last call was this part's."""
        now = self._clock()
        self._seconds[part] += now - self._lap
        self._lap = now

    def count_loads(self, loads: Iterable[Load]) -> None:
        """Adapters are copied to the pool."""
        for load in loads:
            self._num_loads += 1
            self._num_loaded_pages += len(load.pool_pages)

    def count_batch(self, plan: Plan, num_prefill_rows: int) -> None:
        """A step was given to the device; of its rows so many are of prompts."""
        self._num_sequences = len(plan.sequences)
        self._num_rows = sum(plan.num_tokens)
        self._num_prefill_rows = num_prefill_rows
        self._num_prefill_tokens += num_prefill_rows

    def stats(self, pool: PagePool, residency: Residency, scheduler: Scheduler) -> EngineStats:
        """The state after the step that began last."""
        self._last_step_s = self._clock() - self._started
        return EngineStats(
            total_pages=pool.total_pages,
            free_pages=pool.free_pages,
            kv_pages=pool.kv_pages,
            adapter_pages=pool.adapter_pages,
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            pending_prefill_tokens=scheduler.pending_prefill_tokens,
            step_ms=self._last_step_s * 1000,
            num_output_tokens=self.num_output_tokens,
            num_prefill_tokens=self._num_prefill_tokens,
            num_preemptions=scheduler.num_preemptions,
            num_sequences=self._num_sequences,
            num_rows=self._num_rows,
            num_prefill_rows=self._num_prefill_rows,
            num_resident_adapters=residency.num_resident,
            num_loading_adapters=residency.num_copying,
            num_loads=self._num_loads,
            loaded_bytes=self._num_loaded_pages * self._page_bytes,
            times=StepTimes(**{part.value: seconds * 1000 for part, seconds in self._seconds.items()}),
        )
