"""Fits a service to the paper's FCFS column: `python -m benchmarks.slo.fit "A10G S2"`, a few minutes.

Three numbers are sought, the time of a step, of a sequence in it, and of a prompt's token, by trying numbers near the
best so far. What counts is how far attainment, satisfaction, the run's duration and the mean first token are from the
paper's under FCFS, over the five coefficients of variation; no other column is looked at.
"""

import math
import random
import sys
from dataclasses import replace

from benchmarks.slo.paper import SETTINGS, VARIATIONS, Setting
from benchmarks.slo.policies import policy_of
from control_plane.simulation.compare import compare
from control_plane.simulation.service import FleetModel, ServiceModel

_WIDTH, _LEAST_WIDTH, _NARROWER = 0.12, 0.03, 0.97


def distance(setting: Setting, service: ServiceModel) -> float:
    """How far a service is from the FCFS column; 0 if it is the same."""
    total = 0.0
    for index, variation in enumerate(VARIATIONS):
        (outcome,) = compare(setting.trace(variation), [policy_of("fcfs")], FleetModel(service=service)).outcomes
        total += (outcome.attainment - setting.attainment["fcfs"][index]) ** 2
        total += 0.3 * (outcome.satisfaction - setting.satisfaction["fcfs"][index]) ** 2
        total += 0.2 * (outcome.duration_s / setting.fcfs_duration_s[index] - 1) ** 2
        total += 0.01 * math.log(outcome.first_token.mean / setting.fcfs_first_token_s[index]) ** 2
    return total


def fit(setting: Setting, num_tries: int, seed: int) -> ServiceModel:
    """The best service that so many tries find."""
    rng = random.Random(seed)
    best, width = setting.service, _WIDTH
    least = distance(setting, best)
    for _ in range(num_tries):
        step_s, sequence_s, token_s = (
            value * math.exp(rng.gauss(0.0, width)) for value in (best.step_s, best.sequence_s, best.token_s)
        )
        tried = replace(best, step_s=step_s, prefill_s=step_s, sequence_s=sequence_s, token_s=token_s)
        found = distance(setting, tried)
        if found < least:
            best, least = tried, found
            print(f"{least:.5f} step_s={step_s:.6f} sequence_s={sequence_s:.6f} token_s={token_s:.6f}")
        else:
            width = max(_LEAST_WIDTH, width * _NARROWER)
    return best


if __name__ == "__main__":
    fit(next(setting for setting in SETTINGS if setting.name == sys.argv[1]), num_tries=40, seed=1)
