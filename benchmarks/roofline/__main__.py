"""`python -m benchmarks.roofline`: where an engine's steps spend their time on a GPU, beside the machine's floors."""

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import gpu, result
from benchmarks.kernels.floors import Ceilings, measure_ceilings
from benchmarks.roofline.case import Case
from benchmarks.roofline.report import Roofline, roofline
from benchmarks.roofline.steady import SteadyEngine, steady_engines
from benchmarks.roofline.trace import profiled, spent_by_part
from benchmarks.serve.setups import SETUPS

_STEPS = 8  # profiled, and as many timed without a profiler
_USUAL = ("1,0,256", "1,1,256", "32,32,256", "256,0,256", "256,256,256", "256,256,256,512")


def main() -> int:
    """A table for each case; all of them in one file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--setup", choices=list(SETUPS), default="S1")
    parser.add_argument("cases", nargs="*", default=_USUAL, help="rows,adapters,context[,chunk of a prompt]")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where roofline-<setup>-<gpu>.json goes")
    parser.add_argument("--commit", help="of the tree, where there is no git")
    options = parser.parse_args()
    try:
        cases = [Case.parse(SETUPS[options.setup], words) for words in options.cases]
    except ValueError as error:
        parser.error(str(error))
    if not torch.cuda.is_available():
        print("a roofline needs an NVIDIA GPU", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    ceilings = measure_ceilings()
    print(f"ceilings {ceilings.described()}; now the engine starts", file=sys.stderr, flush=True)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    reports = []
    for case, steady in steady_engines(cases, torch.device("cuda")):
        report = look(case, steady, ceilings)
        console.print(report.table())
        reports.append(report.described())
        if options.out:
            result.write(
                f"roofline-{options.setup.lower()}-{gpu.word()}",
                [],
                folder=options.out,
                machine=gpu.machine(options.commit),
                extra={"ceilings": ceilings.described(), "steps": reports},
            )
    return 0


def look(case: Case, steady: SteadyEngine, ceilings: Ceilings) -> Roofline:
    """Steps by the clock, then as many with a profiler."""
    steps = list(steady.steps(case, 2 * _STEPS))
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for step in steps[:_STEPS]:
        step()
    torch.cuda.synchronize()
    wall_ms = 1000 * (time.perf_counter() - begin) / _STEPS
    spent = spent_by_part(profiled(steps[_STEPS:]), case.setup.shape.num_layers)
    return roofline(case, wall_ms, spent, _STEPS, ceilings)


if __name__ == "__main__":
    sys.exit(main())
