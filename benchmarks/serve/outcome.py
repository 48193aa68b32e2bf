"""What serving a workload came to: when requests got their tokens, what that is in figures, and what the pool held."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

SLO_S = 6.0  # the first token's, as in S-LoRA
_MOMENTS_KEPT = 200  # of a run, in its file

Summary = dict[str, float]


@dataclass(slots=True)
class Stream:
    """When a request came, and when its tokens did, in seconds. One that was refused never gets a token."""

    arrived: float
    num_tokens: int = 0
    first: float | None = None
    last: float = 0.0

    def take(self, num_tokens: int, now: float) -> None:
        """More tokens came."""
        if num_tokens:
            self.first = now if self.first is None else self.first
            self.last = now
            self.num_tokens += num_tokens


@dataclass(frozen=True, slots=True)
class Moment:
    """The pool after a step: shares of its pages, and sequences."""

    seconds: float
    kv: float
    adapters: float
    num_running: int
    num_waiting: int


@dataclass
class Run:
    """What a workload came to; times in seconds.

    Attributes:
        seconds: From the first arrival to the last token.
        streams: One for each request.
        num_prompt_tokens: Of all of them.
        moments: The pool over time, where it was seen.
        extra: Further figures of who served.
    """

    seconds: float
    streams: list[Stream]
    num_prompt_tokens: int
    moments: list[Moment] = field(default_factory=list)
    extra: Summary = field(default_factory=dict)

    def summary(self) -> Summary:
        """The figures that serving is judged by: S-LoRA's, section 7, and TPOT's percentiles.

        What was refused counts as late, and is left out of means.
        """
        served = [stream for stream in self.streams if stream.first is not None]
        firsts = sorted(stream.first - stream.arrived for stream in served if stream.first is not None)
        lasts = [stream.last - stream.arrived for stream in served]
        per_token = sorted(
            1000 * (stream.last - stream.first) / (stream.num_tokens - 1)
            for stream in served
            if stream.first is not None and stream.num_tokens > 1
        )
        num_tokens = sum(stream.num_tokens for stream in served)
        refused = [0.0] * (len(self.streams) - len(served))
        return {
            "num_requests": len(self.streams),
            "seconds": round(self.seconds, 3),
            "requests_per_s": round(len(served) / self.seconds, 3),
            "output_tokens_per_s": round(num_tokens / self.seconds, 1),
            "total_tokens_per_s": round((num_tokens + self.num_prompt_tokens) / self.seconds, 1),
            "latency_mean_s": round(statistics.fmean(lasts or [0.0]), 3),
            "first_token_mean_s": round(statistics.fmean(firsts or [0.0]), 3),
            "first_token_p50_s": round(percentile(firsts, 0.5), 3),
            "first_token_p99_s": round(percentile(firsts, 0.99), 3),
            "attainment": round(statistics.fmean([*(float(first <= SLO_S) for first in firsts), *refused]), 3),
            "satisfaction": round(
                statistics.fmean([*(max(0.0, 1 - (first / SLO_S) ** 2) for first in firsts), *refused]), 3
            ),
            **{f"tpot_p{share}_ms": round(percentile(per_token, share / 100), 2) for share in (50, 90, 99)},
            **self.extra,
        }

    def timeline(self) -> dict[str, list[float]]:
        """The pool over time, thinned, a list for each field of a moment; empty where nobody looked."""
        if not self.moments:
            return {}
        every = -(-len(self.moments) // _MOMENTS_KEPT)
        kept = self.moments[::every]
        return {
            "seconds": [round(moment.seconds, 3) for moment in kept],
            "kv": [round(moment.kv, 4) for moment in kept],
            "adapters": [round(moment.adapters, 4) for moment in kept],
            "num_running": [moment.num_running for moment in kept],
            "num_waiting": [moment.num_waiting for moment in kept],
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ascending values; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
