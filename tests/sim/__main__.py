"""`python -m tests.sim [SEED ...] [--show]`: faults by seed under several policies; `--show` prints what happened."""

import argparse
import sys
import time
from collections import Counter

from control_plane.core.types import Failed, Finished
from tests.sim.simulation import Simulation, SimulationFailure
from tests.sim.test_simulation import FAULTY, POLICIES

SEEDS = range(10)


def main() -> int:
    """Exits with 1 if a promise was broken; the line says with which seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--show", action="store_true", help="print every event with its effects")
    options = parser.parse_args()
    num_broken = 0
    for seed in options.seeds:
        for name, policy in POLICIES.items():
            began = time.monotonic()
            try:
                outcome = Simulation(FAULTY, policy, seed, print if options.show else None).run()
            except SimulationFailure as failure:
                num_broken += 1
                print(f"{name:10} BROKEN {failure}")
                continue
            ends = Counter(
                sight.end.reason.value if isinstance(sight.end, Finished) else sight.end.error.reason
                for sight in outcome.witness.sights.values()
                if isinstance(sight.end, Finished | Failed)
            )
            ended = ", ".join(f"{count} {reason}" for reason, count in sorted(ends.items()))
            took_s = time.monotonic() - began
            print(
                f"seed {seed} {name:10} {outcome.num_events} events, {took_s:.1f} s, {outcome.transcript[:12]}: {ended}"
            )
    return 1 if num_broken else 0


if __name__ == "__main__":
    sys.exit(main())
