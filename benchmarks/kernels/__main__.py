"""`python -m benchmarks.kernels`: times every op beside its floor and its peers, on a GPU.

Progress goes to stderr; the table of goals beside measured values is printed last. Writes
benchmarks/results/kernels-<gpu>.json and, where there is matplotlib, its plot.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import gpu
from benchmarks.kernels.correctness import Refused
from benchmarks.kernels.document import described_peers, plot, write
from benchmarks.kernels.floors import measure_ceilings
from benchmarks.kernels.results import Results, figures
from benchmarks.kernels.resume import OtherRun, restore
from benchmarks.kernels.run import PARTS, Progress, Run, jobs
from benchmarks.result import goal_table


def main() -> int:
    """Exits with 1 if a goal is missed or a result is wrong, with 2 if there is no GPU or no such earlier run."""
    options = _parser().parse_args()
    if not torch.cuda.is_available():
        print("benchmarks.kernels needs an NVIDIA GPU and a CUDA build of torch, and finds none here", file=sys.stderr)
        return 2
    progress = Progress()
    if options.rest_of is None:
        results = Results(measure_ceilings(), Refused())
    else:
        try:
            results = restore(options.rest_of, gpu.machine(options.commit), described_peers(options.peers))
        except OtherRun as other:
            print(other, file=sys.stderr)
            return 2
    ceilings = results.ceilings
    progress(f"{ceilings.bytes_per_s / 1e12:.2f} TB/s, {ceilings.flops_per_s / 1e12:.0f} TFLOP/s")
    run = Run(results, options.peers, progress)
    todo = jobs(run, options.only, quick=options.quick)
    results.refused.forget([point.name for point, _ in todo])
    run.warm_up([point for point, _ in todo])

    def save() -> Path:
        return write(results, figures(results), peers=options.peers, folder=options.out, commit=options.commit)

    for point, measure in todo:
        if options.seconds is not None and progress.seconds > options.seconds:
            results.left_out.append(point.name)
            continue
        with results.refused.unless_right(point.name):
            measure()
        save()  # a run that is stopped leaves what it has
    path = save()
    progress(f"wrote {path}; {len(results.left_out)} points left out")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    for reason in results.refused.reasons:
        console.print(f"[red]not timed:[/] {reason}")
    found = figures(results)
    plot(path)
    console.print(goal_table(found))
    return 0 if all(figure.is_met for figure in found) and not results.refused.reasons else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where the wheels of vllm and sglang are unpacked")
    parser.add_argument("--quick", action="store_true", help="one point of each kind")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    parser.add_argument("--seconds", type=float, help="start no point after as many; what matters most comes first")
    parser.add_argument("--rest-of", type=Path, metavar="FILE", help="go on from what an earlier run wrote")
    parser.add_argument("--out", type=Path, help="folder to write to, instead of benchmarks/results")
    parser.add_argument("--commit", help="the commit, where the tree has no .git")
    return parser


if __name__ == "__main__":
    sys.exit(main())
