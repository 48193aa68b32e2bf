"""Times of device work, without the time to launch it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache

import torch

REPLAYS = (5, 15)  # at least and at most
REPLAY_S = 0.15  # of all between, about, if nothing takes turns


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call, over several replays: their median, least and most."""

    median: float
    low: float
    high: float

    def summary(self) -> dict[str, float]:
        """Rounded, for a file."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


@cache
def capture_stream() -> torch.cuda.Stream:
    """The stream that everything is warmed up on and captured on: peers keep scratch by stream."""
    return torch.cuda.Stream()


@contextmanager
def on_capture_stream() -> Iterator[None]:
    """Runs a block there, where there is a GPU, after all that was launched before, and waits for it."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.synchronize()
    with torch.cuda.stream(capture_stream()):
        yield
    torch.cuda.synchronize()


@dataclass(frozen=True, eq=False)
class Captured:
    """Calls as one CUDA graph.

    Attributes:
        graph: the graph.
        calls: what was captured; they keep what the graph's kernels read and write.
    """

    graph: torch.cuda.CUDAGraph
    calls: Sequence[Callable[[], object]]


def time_calls(calls: Sequence[Callable[[], object]]) -> Timing:
    """Captures all calls in one CUDA graph and times its replays; one call's share.

    The calls should differ in what they touch, by more in all than a cache holds, so that memory is what is timed.
    """
    return time_in_turn([capture(calls)])[0]


def capture(calls: Sequence[Callable[[], object]]) -> Captured:
    """Runs each call once, and captures all."""
    stream = capture_stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for call in dict.fromkeys(calls):
            call()
        stream.synchronize()
        graph.capture_begin()
        try:
            for call in calls:
                call()
        except BaseException:
            with suppress(RuntimeError):
                graph.capture_end()  # or nothing could run after
            raise
        graph.capture_end()
    return Captured(graph, calls)


def time_in_turn(works: Sequence[Captured]) -> list[Timing]:
    """Times replays of each; one call's share. They take turns, as a GPU that gets warm slows all of them down."""
    milliseconds: list[list[float]] = [[] for _ in works]
    with torch.cuda.stream(capture_stream()):
        for work in works:
            _replay(work.graph)
        first_ms = max(_replay(work.graph) for work in works)
        least, most = REPLAYS
        for _ in range(max(least, min(most, round(1e3 * REPLAY_S / first_ms)))):
            for work, own in zip(works, milliseconds, strict=True):
                own.append(_replay(work.graph))
    return [
        spread([1e3 * each / len(work.calls) for each in own]) for work, own in zip(works, milliseconds, strict=True)
    ]


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    """Milliseconds."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def spread(microseconds: Sequence[float]) -> Timing:
    """Median, least and most."""
    ordered = sorted(microseconds)
    return Timing(ordered[len(ordered) // 2], ordered[0], ordered[-1])
