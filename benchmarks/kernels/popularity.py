"""How a batch's rows spread over adapters."""

import random
from typing import Literal

Popularity = Literal["identical", "distinct", "uniform", "zipf", "even"]


def rows_per_adapter(popularity: Popularity, num_rows: int, num_adapters: int, seed: int = 0) -> list[int]:
    """Rows of each adapter, `num_rows` in all; an adapter may have none.

    identical: all rows on the first. distinct: one row each. uniform and zipf: each row draws its adapter, with equal
    chances or with chances 1, 1/2, 1/3 and so on. even: as equal as can be, as chunks of prompts are.

    Raises:
        ValueError: for distinct, if there are not as many adapters as rows.
    """
    match popularity:
        case "identical":
            return [num_rows, *[0] * (num_adapters - 1)]
        case "distinct":
            if num_rows != num_adapters:
                raise ValueError(f"distinct needs as many adapters as rows, got {num_adapters} and {num_rows}")
            return [1] * num_rows
        case "even":
            return [num_rows * (i + 1) // num_adapters - num_rows * i // num_adapters for i in range(num_adapters)]
        case "uniform" | "zipf":
            weights = [1.0 if popularity == "uniform" else 1 / (place + 1) for place in range(num_adapters)]
            rng = random.Random(f"{popularity} {num_rows} {num_adapters} {seed}")
            counts = [0] * num_adapters
            for adapter in rng.choices(range(num_adapters), weights, k=num_rows):
                counts[adapter] += 1
            return counts
