"""What LoRA adds to a layer: its base linears in a CUDA graph, alone and with LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.kernels.contenders import Contender, Run
from benchmarks.kernels.correctness import Refused
from benchmarks.kernels.floors import Work, linear_work
from benchmarks.kernels.lora_case import DTYPE, LoraCase, LoraPoint
from benchmarks.kernels.lora_grid import Judge, layer_calls
from benchmarks.kernels.timing import Timing, time_calls

BASE_LAYERS = 2  # of a model of some size, each far more than a cache holds


@dataclass(frozen=True)
class LayerTimes:
    """Whole layers of linears.

    Attributes:
        base: without adapters.
        with_lora: by contender.
        base_work: of the base linears.
    """

    base: Timing
    with_lora: dict[str, Timing]
    base_work: Work

    def added_us(self, name: str) -> float:
        """What a contender's LoRA adds, by the medians."""
        return self.with_lora[name].median - self.base.median


def quick_points() -> list[LoraPoint]:
    """A few adapters in decode, and in prefill."""
    return [point for point in all_points() if point.num_adapters == 8 and point.ranks == (16,)]


def all_points() -> list[LoraPoint]:
    """As many live distinct adapters of rank 16 as rows; 8,192 tokens over few and many adapters, of every rank."""
    decodes = [LoraPoint("llama-3-8b", (16,), "decode", "distinct", live, live) for live in (8, 64, 256)]
    prefills = [
        LoraPoint("llama-3-8b", (rank,), "prefill", "even", 8192, live)
        for rank in (8, 16, 32, 64)
        for live in (1, 8, 64)
    ]
    return [*decodes, *prefills]


def measure_layer(point: LoraPoint, contenders: Sequence[Contender], refused: Refused) -> LayerTimes:
    """Times the base linears, then the base linears with each contender's LoRA, if the sum of both is right."""
    case = LoraCase(point)
    linear = base_linears(case)
    judge = Judge(case, linear)
    base = time_calls(layer_calls(case, linear))
    with_lora = {}
    for contender in contenders:
        with refused.unless_right(f"{contender.name} beside base linears, {point.name}"):
            run = contender.beside(case, linear)
            if run is not None:
                judge.check(run)
                with_lora[contender.name] = time_calls(layer_calls(case, run))
        run = None
    return LayerTimes(base, with_lora, linear_work(case.model, point.num_rows))


def base_linears(case: LoraCase) -> Run:
    """Writes a group's outputs with one matrix product."""
    weights = [
        [
            torch.randn(sum(case.model.widths(group)), case.model.in_features(group), dtype=DTYPE, device=case.device)
            * case.model.in_features(group) ** -0.5
            for group in case.model.groups
        ]
        for _ in range(BASE_LAYERS)
    ]

    def linear(layer: int, index: int) -> None:
        data = case.layers[layer]
        torch.mm(data.inputs[index], weights[layer % BASE_LAYERS][index].T, out=data.outputs[index])

    return linear
