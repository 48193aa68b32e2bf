"""Requests: which adapter, how long a prompt, how long an output, and when they come."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SATURATE = Path(__file__).parents[1] / "workloads" / "saturate-1000.jsonl"
_SHORTEST, _LONGEST = 8, 512  # tokens of prompts and of outputs, the longest excluded: the S-LoRA paper's


@dataclass(frozen=True)
class Item:
    """One request. `adapter` is its number, None for the base model; `arrival_s` counts from the start."""

    adapter: int | None
    prompt: tuple[int, ...]
    num_output: int
    arrival_s: float = 0.0


Workloads = Mapping[str, Sequence[Item]]  # by what results call them


@dataclass(frozen=True)
class Arrivals:
    """Open loop, as the S-LoRA paper's traces: requests come when they come, however many wait.

    Attributes:
        rate: Requests a second, on average.
        cv: Coefficient of variation of the times between them, which are Gamma distributed; 1 is a Poisson process.
        alpha: An adapter's number among n is `floor(p * n)`, p of the power distribution with density
            `alpha * p ** (alpha - 1)`: 1 is uniform, smaller is more skewed.
        duration_s: When the last comes, at the latest.
    """

    rate: float
    cv: float = 1.0
    alpha: float = 1.0
    duration_s: float = 120.0

    def __post_init__(self) -> None:
        if min(self.rate, self.cv, self.alpha, self.duration_s) <= 0:
            raise ValueError("rate, cv, alpha and duration of arrivals must be above 0")

    def __str__(self) -> str:
        return f"{self.rate:g}/s for {self.duration_s:g} s, cv {self.cv:g}, alpha {self.alpha:g}"


def saturate(path: Path, num_adapters: int, vocab_size: int, num_requests: int, seed: int = 0) -> list[Item]:
    """All requests at once, over `num_adapters` adapters; prompts are random tokens.

    A file of fewer requests is gone through again, with other adapters.

    Args:
        path: One object a line with `u` in [0, 1), `prompt_len` and `output_len`, in tokens.
        num_adapters: A request's adapter is `floor(u * num_adapters)`; 0: all use the base model.
        vocab_size: Tokens are below it.
        num_requests: How many to take.
        seed: Of the prompts.
    """
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(seed)
    items = []
    for index in range(num_requests):
        line = lines[index % len(lines)]
        u = line["u"] if index < len(lines) else rng.random()
        prompt = tuple(rng.randrange(vocab_size) for _ in range(line["prompt_len"]))
        items.append(Item(int(u * num_adapters) if num_adapters else None, prompt, line["output_len"]))
    return items


def open_loop(arrivals: Arrivals, num_adapters: int, vocab_size: int, seed: int = 0) -> list[Item]:
    """Requests that come by themselves, over `num_adapters` adapters; lengths are uniform, prompts random tokens."""
    rng = np.random.default_rng(seed)
    shape = arrivals.cv**-2
    items: list[Item] = []
    now = 0.0
    while (now := now + float(rng.gamma(shape, 1 / (shape * arrivals.rate)))) < arrivals.duration_s:
        adapter = min(int(rng.power(arrivals.alpha) * num_adapters), num_adapters - 1) if num_adapters else None
        prompt_len, num_output = rng.integers(_SHORTEST, _LONGEST, 2).tolist()
        items.append(Item(adapter, tuple(rng.integers(0, vocab_size, prompt_len).tolist()), num_output, now))
    return items


def decode(num_rows: int, num_distinct: int, vocab_size: int, seed: int = 0) -> list[Item]:
    """A batch of equal requests: prompts and outputs of 128 tokens, `num_distinct` adapters in turn; 0: the base."""
    rng = random.Random(seed)
    return [
        Item(row % num_distinct if num_distinct else None, tuple(rng.randrange(vocab_size) for _ in range(128)), 128)
        for row in range(num_rows)
    ]


def touched(items: Sequence[Item]) -> list[int]:
    """The adapters that are used, by number."""
    return sorted({item.adapter for item in items if item.adapter is not None})
