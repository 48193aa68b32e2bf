"""A run: every point of the parts asked for, what matters most first, for as long as there is time."""

import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.kernels import attention, lora_grid, lora_layer, step
from benchmarks.kernels.attention import AttentionPoint
from benchmarks.kernels.contenders import Contender, PaddedBmm, TorchLoop
from benchmarks.kernels.floors import Work
from benchmarks.kernels.lora_case import LoraPoint
from benchmarks.kernels.results import OURS, Measured, Results
from benchmarks.kernels.step import StepPoint
from benchmarks.kernels.timing import Timing
from benchmarks.kernels.warm import Point, contenders, warm_up

PARTS = ("lora", "layer", "attention", "step")
Job = tuple[Point, Callable[[], None]]
P = TypeVar("P", LoraPoint, AttentionPoint, StepPoint)
OVERLAPPING = 64  # rows, up to which programmatic dependent launch may hide what is left of a launch


class Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._begin

    def __call__(self, line: str) -> None:
        """Prints one."""
        print(f"{self.seconds:6.1f} s  {line}", file=sys.stderr, flush=True)


class Run:
    """Measures points; each result is checked before it is timed."""

    def __init__(self, results: Results, peers: Path | None, progress: Progress) -> None:
        self.results = results
        self._progress, self._peers = progress, peers
        self._engines = contenders(peers)

    def warm_up(self, points: Sequence[Point]) -> None:
        """Compiles what they need."""
        for failure in warm_up(points, [engine.name for engine in self._engines], self._peers):
            self._progress(f"while compiling: {failure}")
        self._progress(f"compiled what {len(points)} points need")

    def lora(self, point: LoraPoint) -> None:
        """A layer's LoRA."""
        everyone: list[Contender] = [*self._engines, TorchLoop(), PaddedBmm()]
        if point.num_rows > OVERLAPPING:
            everyone = [one for one in everyone if one.name != "vllm_pdl"]
        timings = lora_grid.measure_point(point, everyone, self.results.refused)
        self.results.lora[point] = self._beside_floor(point.name, point.work, timings)

    def layer(self, point: LoraPoint) -> None:
        """A layer without and with LoRA; of prompts, the peers' at the rank that most adapters have."""
        others = [one for one in self._engines if one.name != OURS]
        peers = others if point.phase == "decode" or (point.phase, point.ranks) == ("prefill", (16,)) else []
        self.results.layers[point] = times = lora_layer.measure_layer(point, peers, self.results.refused)
        added = ", ".join(f"{who} +{times.added_us(who):.1f}" for who in times.with_lora)
        self._progress(f"a layer and {point.name}: {times.base.median:.1f} us; {added}")

    def attention(self, point: AttentionPoint) -> None:
        """A layer's attention."""
        timings = attention.measure_attention(point, self.results.refused)
        self.results.attention[point] = self._beside_floor(point.name, point.work, timings)

    def step(self, point: StepPoint) -> None:
        """One of the other ops."""
        self.results.step.append(self._beside_floor(point.name, *step.measure_step(point, self.results.refused)))

    def _beside_floor(self, name: str, work: Work, timings: dict[str, Timing]) -> Measured:
        measured = Measured(name, work, self.results.ceilings.floor_us(work), timings)
        times = ", ".join(f"{who} {timing.median:.1f}" for who, timing in timings.items())
        self._progress(f"{name}: floor {measured.floor_us:.1f} us; {times}")
        return measured


def jobs(run: Run, parts: Sequence[str], *, quick: bool) -> list[Job]:
    """Points and what measures them: those that goals speak of first, then what is left of each part.

    Those that `run` has results of are left out.
    """
    results = run.results
    lora = _without(results.lora, lora_grid.quick_points() if quick else lora_grid.all_points())
    layers = _without(results.layers, lora_layer.quick_points() if quick else lora_layer.all_points())
    attended = _without(results.attention, attention.quick_points() if quick else attention.all_points())
    stepped = {measured.name for measured in results.step}
    steps = [point for point in (step.quick_points() if quick else step.all_points()) if point.name not in stepped]
    first, wanted = set(lora_grid.first_points()), set(attention.quick_points())
    ordered = [
        ("lora", _each(run.lora, [point for point in lora if point in first])),
        ("layer", _each(run.layer, layers)),
        ("attention", _each(run.attention, [point for point in attended if point in wanted])),
        ("lora", _each(run.lora, [point for point in lora if point not in first])),
        ("attention", _each(run.attention, [point for point in attended if point not in wanted])),
        ("step", _each(run.step, steps)),
    ]
    return [job for part, found in ordered if part in parts for job in found]


def _without(measured: Collection[P], points: Sequence[P]) -> list[P]:
    return [point for point in points if point not in measured]


def _each(measure: Callable[[P], None], points: Sequence[P]) -> list[Job]:
    return [(point, partial(measure, point)) for point in points]
