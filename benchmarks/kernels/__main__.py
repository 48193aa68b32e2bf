"""`python -m benchmarks.kernels`: times every op beside its floor and its peers, on a GPU.

Progress goes to stderr; the table of goals beside measured values is printed last. Writes
benchmarks/results/kernels-<gpu>.json and, where there is matplotlib, its plot.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.kernels import attention, lora_grid, lora_layer, step
from benchmarks.kernels.contenders import Contender, PaddedBmm, TorchLoop
from benchmarks.kernels.correctness import Refused
from benchmarks.kernels.document import write
from benchmarks.kernels.floors import Work, measure_ceilings
from benchmarks.kernels.lora_case import LoraPoint
from benchmarks.kernels.results import Measured, Results, figures
from benchmarks.kernels.timing import Timing
from benchmarks.kernels.warm import contenders, warm_up
from benchmarks.result import goal_table

PARTS = ("step", "attention", "layer", "lora")


def main() -> int:
    """Exits with 1 if a goal is missed, with 2 if there is no GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, metavar="DIR", help="a folder with the wheels of vllm and sglang unpacked"
    )
    parser.add_argument("--quick", action="store_true", help="one point of each kind")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts")
    parser.add_argument("--out", type=Path, help="folder to write to, instead of benchmarks/results")
    parser.add_argument("--commit", help="the commit, where the tree has no .git")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "benchmarks.kernels needs an NVIDIA GPU and a CUDA build of torch; torch finds none here", file=sys.stderr
        )
        return 2
    progress = Progress()
    ceilings = measure_ceilings()
    progress(f"{ceilings.bytes_per_s / 1e12:.2f} TB/s, {ceilings.flops_per_s / 1e12:.0f} TFLOP/s")
    run = Run(Results(ceilings, Refused()), options.peers, quick=options.quick, progress=progress)
    for part in options.only:
        run.measure(part)
        found = figures(run.results)  # a run that is cut short leaves what it has
        path = write(run.results, found, peers=options.peers, folder=options.out, commit=options.commit)
        progress(f"wrote {path}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(goal_table(found))
    for reason in run.results.refused.reasons:
        console.print(f"[red]not timed, wrong:[/] {reason}")
    return 0 if all(figure.is_met for figure in found) and not run.results.refused.reasons else 1


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, line: str) -> None:
        """Prints one."""
        print(f"{time.monotonic() - self._begin:6.1f} s  {line}", file=sys.stderr, flush=True)


class Run:
    """Measures parts, each result checked before it is timed."""

    def __init__(self, results: Results, peers: Path | None, *, quick: bool, progress: Progress) -> None:
        self.results = results
        self._peers, self._quick, self._progress = peers, quick, progress
        self._engines = contenders(peers)

    def measure(self, part: str) -> None:
        """Adds a part's points to the results."""
        {"lora": self._lora, "layer": self._layer, "attention": self._attention, "step": self._step}[part]()

    def _lora(self) -> None:
        points = lora_grid.quick_points() if self._quick else lora_grid.all_points()
        self._warm_up(points)
        everyone: list[Contender] = [*self._engines, TorchLoop(), PaddedBmm()]
        for point in points:
            timings = lora_grid.measure_point(point, everyone, self.results.refused)
            self.results.lora[point] = self._beside_floor(point.name, point.work, timings)

    def _layer(self) -> None:
        points = lora_layer.quick_points() if self._quick else lora_layer.all_points()
        self._warm_up(points)
        for point in points:
            self.results.layers[point] = times = lora_layer.measure_layer(point, self._engines, self.results.refused)
            added = ", ".join(f"{who} +{times.added_us(who):.1f}" for who in times.with_lora)
            self._progress(f"base linears and {point.name}: {times.base.median:.1f} us; {added}")

    def _attention(self) -> None:
        for point in attention.quick_points() if self._quick else attention.all_points():
            timings = attention.measure_attention(point, self.results.refused)
            self.results.attention[point] = self._beside_floor(point.name, point.work, timings)

    def _step(self) -> None:
        for point in step.quick_points() if self._quick else step.all_points():
            self.results.step.append(self._beside_floor(point.name, *step.measure_step(point, self.results.refused)))

    def _warm_up(self, points: list[LoraPoint]) -> None:
        for failure in warm_up(points, self._peers):
            self._progress(f"while compiling: {failure}")
        self._progress("compiled")

    def _beside_floor(self, name: str, work: Work, timings: dict[str, Timing]) -> Measured:
        measured = Measured(name, work, self.results.ceilings.floor_us(work), timings)
        times = ", ".join(f"{who} {timing.median:.1f}" for who, timing in timings.items())
        self._progress(f"{name}: floor {measured.floor_us:.1f} us; {times}")
        return measured


if __name__ == "__main__":
    sys.exit(main())
