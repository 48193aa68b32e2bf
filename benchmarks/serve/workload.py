"""Requests: which adapter, how long a prompt, how long an output, and when they come."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SATURATE = Path(__file__).parents[1] / "workloads" / "saturate-1000.jsonl"


@dataclass(frozen=True)
class Item:
    """One request. `adapter` is its number, None for the base model; `arrival_s` counts from the start."""

    adapter: int | None
    prompt: tuple[int, ...]
    num_output: int
    arrival_s: float = 0.0


def saturate(path: Path, num_adapters: int, vocab_size: int, num_requests: int, seed: int = 0) -> list[Item]:
    """All requests at once, over `num_adapters` adapters; prompts are random tokens.

    A file of fewer requests is gone through again.

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
