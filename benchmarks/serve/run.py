"""One workload through one engine, and what it measured."""

import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.serve.workload import Item
from worker.engine.engine import Engine
from worker.types import EngineRequest, HostedAdapter, SamplingParams, StepResult

_SLO_S = 6.0  # the first token's, as in S-LoRA
_GREEDY = SamplingParams(temperature=0.0)


@dataclass(slots=True)
class Stream:
    """When a request came, and when its tokens did, in seconds."""

    arrived: float
    num_tokens: int = 0
    first: float = 0.0
    last: float = 0.0


@dataclass
class Run:
    """What a workload came to; times in seconds."""

    seconds: float
    streams: list[Stream]
    num_prompt_tokens: int

    def summary(self) -> dict[str, float]:
        """The figures that serving is judged by: S-LoRA's, section 7, and TPOT's percentiles."""
        firsts = [stream.first - stream.arrived for stream in self.streams]
        lasts = [stream.last - stream.arrived for stream in self.streams]
        per_token = sorted(
            (stream.last - stream.first) / (stream.num_tokens - 1) for stream in self.streams if stream.num_tokens > 1
        )
        num_tokens = sum(stream.num_tokens for stream in self.streams)
        return {
            "seconds": round(self.seconds, 3),
            "requests_per_s": round(len(self.streams) / self.seconds, 3),
            "output_tokens_per_s": round(num_tokens / self.seconds, 1),
            "total_tokens_per_s": round((num_tokens + self.num_prompt_tokens) / self.seconds, 1),
            "latency_mean_s": round(statistics.fmean(lasts), 3),
            "first_token_mean_s": round(statistics.fmean(firsts), 3),
            "first_token_p50_s": round(_percentile(sorted(firsts), 0.5), 3),
            "first_token_p99_s": round(_percentile(sorted(firsts), 0.99), 3),
            "attainment": round(statistics.fmean(first <= _SLO_S for first in firsts), 3),
            "satisfaction": round(statistics.fmean(max(0.0, 1 - (first / _SLO_S) ** 2) for first in firsts), 3),
            "tpot_p50_ms": round(1000 * _percentile(per_token, 0.5), 2) if per_token else 0.0,
            "tpot_p99_ms": round(1000 * _percentile(per_token, 0.99), 2) if per_token else 0.0,
        }


def run(engine: Engine, items: Sequence[Item], adapters: dict[int, HostedAdapter]) -> Run:
    """Serves a workload to its end.

    Every request asks for exactly its number of output tokens: nothing ends one early.
    """
    coming = deque(
        (
            item.arrival_s,
            EngineRequest(
                str(index),
                item.prompt,
                item.num_output,
                _GREEDY,
                adapter=None if item.adapter is None else adapters[item.adapter],
            ),
        )
        for index, item in enumerate(sorted(items, key=lambda item: item.arrival_s))
    )
    num_prompt_tokens = sum(len(item.prompt) for item in items)
    streams: dict[str, Stream] = {}
    started = time.perf_counter()
    while coming or engine.has_work:
        now = time.perf_counter() - started
        while coming and coming[0][0] <= now:
            arrival_s, request = coming.popleft()
            streams[request.request_id] = Stream(arrival_s)
            engine.add(request)
        if not engine.has_work:
            time.sleep(min(0.001, coming[0][0] - now))
            continue
        result = engine.step()
        _note(result, streams, time.perf_counter() - started)
    return Run(time.perf_counter() - started, list(streams.values()), num_prompt_tokens)


def _note(result: StepResult, streams: dict[str, Stream], now: float) -> None:
    assert not result.failures, result.failures[0]
    for output in result.outputs:
        stream = streams[output.request_id]
        if output.token_ids:
            stream.first = stream.first or now
            stream.last = now
            stream.num_tokens += len(output.token_ids)


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
