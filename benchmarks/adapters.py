"""What adapters cost: 64 concurrent requests over 16 adapters against the same requests of the base model alone."""

import time

from benchmarks.demo_workload import DemoEngine, crowd, tokenised
from benchmarks.result import Figure, Spread

NUM_REQUESTS, NUM_ADAPTERS, NUM_TOKENS, ROUNDS = 64, 16, 128, 7


def measure() -> list[Figure]:
    """Runs the two in turn on one engine and one thread; the first round of each warms up."""
    engine = DemoEngine()
    base, mixed = crowd(NUM_REQUESTS, 0, NUM_TOKENS), crowd(NUM_REQUESTS, NUM_ADAPTERS, NUM_TOKENS)
    prompts = tokenised(base + mixed)
    rates: dict[str, list[float]] = {"base": [], "adapters": []}
    for _ in range(ROUNDS + 1):
        for name, works in (("base", base), ("adapters", mixed)):
            begin = time.perf_counter()
            num_tokens = engine.run(works, prompts)
            rates[name].append(num_tokens / (time.perf_counter() - begin))
    engine.close()
    base_rate, mixed_rate = (Spread(tuple(rates[name][1:])) for name in ("base", "adapters"))
    return [
        Figure(
            name=f"{NUM_REQUESTS} requests over {NUM_ADAPTERS} adapters, tokens/s against base only",
            value=round(mixed_rate.median / base_rate.median, 3),
            unit="ratio",
            goal=0.75,
            details={"base_tokens_per_s": base_rate.summary(), "adapters_tokens_per_s": mixed_rate.summary()},
        )
    ]
