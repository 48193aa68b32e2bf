"""Random requests: of every kind that an engine takes, and some that it must refuse."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.serve.setups import Setup
from worker.types import EngineRequest, SamplingParams

_GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True)
class Bounds:
    """Of single requests and of their number.

    Attributes:
        adapters: How many there are.
        prompt: Most tokens of a prompt.
        output: Most tokens of an output.
        in_flight: Most requests at a time.
        requests: Of a period, at whose end the engine gets idle.
        context_length: Most tokens of a sequence; longer prompts are refused.
    """

    adapters: int = 24
    prompt: int = 220
    output: int = 90
    in_flight: int = 40
    requests: int = 150
    context_length: int = 1024


@dataclass(frozen=True)
class Asked:
    """A request, and what will be done to it.

    Attributes:
        request: Without its adapter.
        adapter: By number; None for the base model.
        cancel_after: Steps after which it is cancelled; None: never.
        is_refused: Whether it cannot be served.
    """

    request: EngineRequest
    adapter: int | None
    cancel_after: int | None = None
    is_refused: bool = False


def requests(rng: random.Random, setup: Setup, bounds: Bounds, period: int) -> Iterator[Asked]:
    """A period's requests."""
    for index in range(bounds.requests):
        name = f"{period}-{index}"
        prompt = tuple(rng.choices(range(setup.vocab_size), k=_skewed(rng, bounds.prompt)))
        most = _skewed(rng, bounds.output)
        if rng.random() < 0.02:
            yield Asked(_refused(rng, name, prompt, most, bounds), None, is_refused=True)
            continue
        num_resumed = rng.randrange(most) if rng.random() < 0.05 else 0
        request = EngineRequest(
            name,
            prompt,
            most,
            _sampling(rng),
            resumed_token_ids=tuple(rng.choices(range(setup.vocab_size), k=num_resumed)),
            stop_token_ids=frozenset(rng.sample(range(setup.vocab_size), 2)) if rng.random() < 0.1 else frozenset(),
            logprob_count=rng.randrange(4) if rng.random() < 0.1 else None,
            priority=int(rng.random() < 0.1),
        )
        adapter = None if rng.random() < 0.15 else min(int(rng.paretovariate(0.6)) - 1, bounds.adapters - 1)
        yield Asked(request, adapter, rng.randrange(60) if rng.random() < 0.1 else None)


def _skewed(rng: random.Random, most: int) -> int:
    """1 to `most`; half of them in the lowest quarter."""
    return 1 + int(rng.random() ** 2 * most)


def _sampling(rng: random.Random) -> SamplingParams:
    if rng.random() < 0.6:
        return _GREEDY
    return SamplingParams(
        temperature=rng.uniform(0.2, 1.5),
        top_k=rng.choice((0, 0, 5, 40)),
        top_p=rng.choice((1.0, 1.0, 0.7)),
        min_p=rng.choice((0.0, 0.0, 0.05)),
        repetition_penalty=rng.choice((1.0, 1.0, 1.0, 1.3)),
        seed=rng.randrange(1 << 30),
    )


def _refused(rng: random.Random, name: str, prompt: tuple[int, ...], most: int, bounds: Bounds) -> EngineRequest:
    match rng.randrange(3):
        case 0:
            return EngineRequest(name, (), most)
        case 1:
            return EngineRequest(name, prompt, 0)
        case _:
            return EngineRequest(name, (prompt * bounds.context_length)[: bounds.context_length], most)
