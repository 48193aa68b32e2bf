"""Random numbers without state: a request's n-th draw depends on its seed and on n alone."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TO_UNIT = 2.0**-53


def uniforms(seeds: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, output position).

    The position-th output of the SplitMix64 generator (Steele et al., 2014) whose state is the mixed seed.

    Args:
        seeds: `[num_rows]`, any values.
        positions: `[num_rows]`, at least 0.

    Returns:
        `[num_rows]`, with 53 random bits each.
    """
    with np.errstate(over="ignore"):
        state = _mix(seeds.view(np.uint64) + _GOLDEN)
        bits = _mix(state + (positions.view(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
