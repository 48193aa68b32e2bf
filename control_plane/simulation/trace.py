"""A trace: who asked for what, when. Read from JSON lines, or drawn."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

MAX_REQUESTS = 1_000_000


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request. `output_tokens` is what it produces, `max_tokens` what it asks for: 0 for just as many."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    adapter_id: str = ""
    rank: int = 16
    size_bytes: int = 0
    max_tokens: int = 0
    tenant: str = "default"
    priority: int = 0
    first_token_deadline_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they arrive."""

    name: str
    requests: tuple[TraceRequest, ...]


class TraceError(Exception):
    """A trace that cannot be played; the message names the line and what to change."""


def read_trace(name: str, lines: Iterable[str]) -> Trace:
    """Reads a trace, one JSON object of `TraceRequest`'s fields on each line. Raises TraceError."""
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as error:
            raise TraceError(f"line {number}: this is not JSON: {error}") from error
        requests.append(_request(found, number))
        if len(requests) > MAX_REQUESTS:
            raise TraceError(f"line {number}: a trace has at most {MAX_REQUESTS} requests: cut it in parts")
    if not requests:
        raise TraceError("the trace is empty: write one request on each line")
    return Trace(name, tuple(sorted(requests, key=lambda each: each.at_s)))


@dataclass(frozen=True, slots=True)
class GammaArrivals:
    """Arrivals of a rate whose gaps are Gamma distributed, lengths uniform, adapters by a power law.

    This is the S-LoRA paper's generator: adapter `floor(power(alpha) * n)`, so that alpha 1 is uniform and less is
    more skewed; lengths from the first to below the second number; a coefficient of variation of 1 is Poisson.
    """

    requests_per_s: float
    coefficient_of_variation: float
    duration_s: float
    num_adapters: int
    alpha: float = 1.0
    prompt_tokens: tuple[int, int] = (8, 512)
    output_tokens: tuple[int, int] = (8, 512)
    ranks: tuple[int, ...] = (16,)
    bytes_per_rank: int = 0
    first_token_deadline_s: float = 0.0

    def draw(self, name: str, seed: int) -> Trace:
        """The trace of a seed: the same numbers as the paper's generator draws from it."""
        rng = np.random.RandomState(seed)
        count = int(self.requests_per_s * self.duration_s)
        adapters = (rng.power(self.alpha, count) * self.num_adapters).astype(int)
        prompts = rng.randint(*self.prompt_tokens, count)
        outputs = rng.randint(*self.output_tokens, count)
        variance = self.coefficient_of_variation**2
        arrivals = np.cumsum(rng.gamma(1 / variance, variance / self.requests_per_s, count))
        drawn = zip(arrivals.tolist(), adapters.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
        return Trace(name, tuple(self._request(*each) for each in drawn))

    def _request(self, at_s: float, adapter: int, num_prompt_tokens: int, num_output_tokens: int) -> TraceRequest:
        rank = self.ranks[adapter % len(self.ranks)]
        return TraceRequest(
            at_s=at_s,
            prompt_tokens=num_prompt_tokens,
            output_tokens=num_output_tokens,
            adapter_id=f"adapter-{adapter}",
            rank=rank,
            size_bytes=rank * self.bytes_per_rank,
            first_token_deadline_s=self.first_token_deadline_s,
        )


def _request(found: Any, number: int) -> TraceRequest:
    if not isinstance(found, dict):
        raise TraceError(f"line {number}: must be a JSON object")
    known = {field.name: field for field in fields(TraceRequest)}
    for name, value in found.items():
        if name not in known:
            raise TraceError(f"line {number}: unknown field {name!r}; there are {', '.join(known)}")
        kind = known[name].type
        is_good = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)  # type: ignore[arg-type]
        if not is_good:
            raise TraceError(f"line {number}: {name} must be {'a number' if kind is float else _NOUN[str(kind)]}")
        if isinstance(value, int | float) and name != "priority" and not 0 <= value < math.inf:
            raise TraceError(f"line {number}: {name} must be at least 0, not {value}")
    missing = [name for name in ("at_s", "prompt_tokens", "output_tokens") if name not in found]
    if missing:
        raise TraceError(f"line {number}: {missing[0]} is missing")
    if found["prompt_tokens"] < 1 or found["output_tokens"] < 1:
        raise TraceError(f"line {number}: prompt_tokens and output_tokens must be at least 1")
    return TraceRequest(**found)


_NOUN = {str(int): "a whole number", str(str): "text"}
