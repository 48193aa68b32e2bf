"""One workload through one engine."""

import statistics
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Protocol

from benchmarks.serve.outcome import Moment, Run, Stream, Summary
from benchmarks.serve.workload import Item
from worker.engine.engine import Engine
from worker.types import EngineRequest, EngineStats, HostedAdapter, SamplingParams, StepResult, StepTimes

_GREEDY = SamplingParams(temperature=0.0)
_PAUSE_S = 0.0005  # while there is nothing to compute


class Host(Protocol):
    """Where requests wait until their adapters are in host memory."""

    def ask(self, name: str, item: Item) -> None:
        """A request came."""

    def take_ready(self) -> Iterable[EngineRequest]:
        """Requests that may start, and have not been taken."""
        ...

    def end(self, name: str) -> None:
        """A request ended."""

    @property
    def has_work(self) -> bool:
        """Whether a request may still become ready."""
        ...


def request_of(name: str, item: Item, adapters: Mapping[int, HostedAdapter]) -> EngineRequest:
    """Asks for exactly the item's number of tokens: nothing ends it early."""
    adapter = None if item.adapter is None else adapters[item.adapter]
    return EngineRequest(name, item.prompt, item.num_output, _GREEDY, adapter=adapter)


def run(engine: Engine, items: Sequence[Item], host: Host) -> Run:
    """Serves a workload to its end."""
    coming = deque(sorted(items, key=lambda item: item.arrival_s))
    streams: dict[str, Stream] = {}
    moments: list[Moment] = []
    steps: list[EngineStats] = []
    started = time.perf_counter()
    while coming or host.has_work or engine.has_work:
        now = time.perf_counter() - started
        while coming and coming[0].arrival_s <= now:
            item = coming.popleft()
            name = str(len(streams))
            streams[name] = Stream(item.arrival_s)
            host.ask(name, item)
        for request in host.take_ready():
            engine.add(request)
        if not engine.has_work:
            time.sleep(_PAUSE_S)
            continue
        result = engine.step()
        now = time.perf_counter() - started
        note(result, streams, now)
        for output in result.outputs:
            if output.finish_reason is not None:
                host.end(output.request_id)
        steps.append(result.stats)
        moments.append(moment(result.stats, now))
    num_prompt_tokens = sum(len(item.prompt) for item in items)
    seconds = time.perf_counter() - started
    return Run(seconds, list(streams.values()), num_prompt_tokens, moments, engine_figures(steps))


def engine_figures(steps: Sequence[EngineStats]) -> Summary:
    """What the engine says of its steps: counts, and the host's mean time a step and each part of it."""
    if not steps:
        return {}
    first, last = steps[0], steps[-1]
    return {
        "num_steps": len(steps),
        "num_preemptions": last.num_preemptions - first.num_preemptions,
        "num_adapter_loads": last.num_loads - first.num_loads,
        "max_resident_adapters": max(stats.num_resident_adapters for stats in steps),
        "step_mean_ms": round(statistics.fmean(stats.step_ms for stats in steps), 3),
        **{
            f"step_{part.name.removesuffix('_ms')}_mean_ms": round(
                statistics.fmean(getattr(stats.times, part.name) for stats in steps), 3
            )
            for part in fields(StepTimes)
        },
    }


def note(result: StepResult, streams: Mapping[str, Stream], now: float) -> None:
    """Writes down a step's tokens; no request of a benchmark may fail."""
    assert not result.failures, result.failures[0]
    for output in result.outputs:
        streams[output.request_id].take(len(output.token_ids), now)


def moment(stats: EngineStats, now: float) -> Moment:
    """The pool after a step."""
    total = stats.total_pages
    return Moment(now, stats.kv_pages / total, stats.adapter_pages / total, stats.num_running, stats.num_waiting)
