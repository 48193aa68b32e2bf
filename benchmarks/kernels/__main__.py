"""`python -m benchmarks.kernels`: times every op beside its floor and its peers, on a GPU.

Progress goes to stderr; the table of goals beside measured values is printed last. Writes
benchmarks/results/kernels-<gpu>.json and, where there is matplotlib, its plot.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.kernels import attention, lora_grid, lora_layer, step
from benchmarks.kernels.contenders import Contender, PaddedBmm, TorchLoop
from benchmarks.kernels.document import write
from benchmarks.kernels.floors import Work, measure_ceilings
from benchmarks.kernels.results import Measured, Results, figures
from benchmarks.kernels.timing import Timing
from benchmarks.kernels.warm import contenders, warm_up
from benchmarks.result import goal_table

PARTS = ("lora", "layer", "attention", "step")


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
    results = measure(options.only, peers=options.peers, quick=options.quick, progress=progress)
    found = figures(results)
    path = write(results, found, peers=options.peers, folder=options.out, commit=options.commit)
    progress(f"wrote {path}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(goal_table(found))
    return 0 if all(figure.is_met for figure in found) else 1


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, line: str) -> None:
        """Prints one."""
        print(f"{time.monotonic() - self._begin:6.1f} s  {line}", file=sys.stderr, flush=True)


def measure(parts: Sequence[str], *, peers: Path | None, quick: bool, progress: Progress) -> Results:
    """Everything asked for, each result checked before it is timed."""
    ceilings = measure_ceilings()
    progress(f"{ceilings.bytes_per_s / 1e12:.2f} TB/s, {ceilings.flops_per_s / 1e12:.0f} TFLOP/s")
    lora_points = (lora_grid.quick_points() if quick else lora_grid.all_points()) if "lora" in parts else []
    layer_points = (lora_layer.quick_points() if quick else lora_layer.all_points()) if "layer" in parts else []
    attention_points = (attention.quick_points() if quick else attention.all_points()) if "attention" in parts else []
    step_points = (step.quick_points() if quick else step.all_points()) if "step" in parts else []
    if lora_points or layer_points:
        warm_up([*lora_points, *layer_points], peers)
        progress("compiled what LoRA needs")
    engines = contenders(peers)
    everyone: list[Contender] = [*engines, TorchLoop(), PaddedBmm()]

    def beside_floor(name: str, work: Work, timings: dict[str, Timing]) -> Measured:
        measured = Measured(name, work, ceilings.floor_us(work), timings)
        times = ", ".join(f"{who} {timing.median:.1f}" for who, timing in timings.items())
        progress(f"{name}: floor {measured.floor_us:.1f} us; {times}")
        return measured

    lora = {p: beside_floor(p.name, p.work, lora_grid.measure_point(p, everyone)) for p in lora_points}
    layers = {}
    for point in layer_points:
        layers[point] = times = lora_layer.measure_layer(point, engines)
        shares = ", ".join(f"{who} +{times.added_us(who):.1f}" for who in times.with_lora)
        progress(f"base linears and {point.name}: {times.base.median:.1f} us; {shares}")
    attended = {p: beside_floor(p.name, p.work, attention.measure_attention(p)) for p in attention_points}
    steps = [beside_floor(p.name, *step.measure_step(p)) for p in step_points]
    return Results(ceilings, lora, layers, attended, steps)


if __name__ == "__main__":
    sys.exit(main())
