"""`python -m benchmarks.calibration FILE...`: costs for `multitude policy simulate` from results of serving on a GPU.

FILEs are results of `benchmarks.roofline` and `benchmarks.serve` of one setup. Steps by the clock give the numbers, if
there are any; else saturating runs do, of which one is of the base model alone. Prints the numbers as `--cost` options,
and how long each saturating run lasts with them beside how long it lasted.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.calibration.measured import CalibrationError, saturated_in, setup_of, steps_in
from benchmarks.calibration.service import floor_of, from_runs, from_steps, simulated_s

_SHOWN = ("step_s", "sequence_s", "context_s", "rank_s", "prefill_s", "token_s", "load_s_per_gb")
_COUNTED = ("pool_tokens", "bytes_per_token")


def main(arguments: list[str] | None = None) -> int:
    """Returns 2 if the files cannot be calibrated from."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        documents = [json.loads(path.read_text(encoding="utf-8")) for path in options.files]
        setup = setup_of(documents)
        steps = [step for document in documents for step in steps_in(document, setup)]
        runs = [run for document in documents for run in saturated_in(document)]
        service = from_steps(floor_of(setup), steps) if steps else from_runs(floor_of(setup), setup, runs)
    except (CalibrationError, OSError, ValueError) as error:
        print(f"calibration: {error}", file=sys.stderr)
        return 2
    costs = [f"{name}={getattr(service, name):.4g}" for name in _SHOWN]
    costs += [f"{name}={getattr(service, name)}" for name in _COUNTED]
    print(" ".join(f"--cost {cost}" for cost in costs))
    for run in runs:
        lasts_s = simulated_s(service, setup, run)
        print(f"{setup.name}, {run.name}: {run.seconds:.2f} s measured, {lasts_s:.2f} s simulated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
