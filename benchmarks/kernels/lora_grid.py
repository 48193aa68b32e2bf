"""The LoRA grid: its points, and how one is checked and timed."""

from collections.abc import Callable, Sequence
from itertools import cycle, islice

from benchmarks.kernels.contenders import Contender, Run
from benchmarks.kernels.correctness import Refused, check_result
from benchmarks.kernels.lora_case import LoraCase, LoraPoint
from benchmarks.kernels.popularity import Popularity
from benchmarks.kernels.timing import Timing, on_capture_stream, time_calls

MIXED = (8, 16, 32, 64)
CALLS = 24  # of one graph, at least, where a contender allows them


def _decodes(model: str, ranks: tuple[int, ...], batches: Sequence[tuple[Popularity, int, int]]) -> list[LoraPoint]:
    return [LoraPoint(model, ranks, "decode", popularity, rows, live) for popularity, rows, live in batches]


def _prefills(model: str, ranks: tuple[int, ...], batches: Sequence[tuple[int, int]]) -> list[LoraPoint]:
    return [LoraPoint(model, ranks, "prefill", "even", rows, live) for rows, live in batches]


def _distinct(*sizes: int) -> list[tuple[Popularity, int, int]]:
    return [("distinct", size, size) for size in sizes]


def quick_points() -> list[LoraPoint]:
    """One of each kind."""
    return [
        *_decodes("llama-3-8b", (16,), [*_distinct(8, 64), ("identical", 64, 1), ("zipf", 256, 128)]),
        *_decodes("llama-3-8b", MIXED, _distinct(64)),
        *_decodes("llama-7b", (8,), _distinct(32)),
        *_decodes("llama-70b/tp8", (16,), _distinct(64)),
        *_prefills("llama-3-8b", (16,), [(8192, 8)]),
    ]


def all_points() -> list[LoraPoint]:
    """The whole grid: batch 1 to 1,024, ranks 8 to 64, adapters 1 to 512, every popularity, every model."""
    return [
        *_decodes("llama-3-8b", (16,), _distinct(1, 8, 32, 64, 256, 512)),
        *_decodes("llama-3-8b", (16,), [("identical", rows, 1) for rows in (8, 64, 256, 1024)]),
        *_decodes("llama-3-8b", (16,), [("uniform", 64, 8), ("uniform", 256, 64), ("uniform", 1024, 512)]),
        *_decodes("llama-3-8b", (16,), [("zipf", 64, 64), ("zipf", 256, 128), ("zipf", 1024, 512)]),
        *_decodes("llama-3-8b", (8,), [*_distinct(1, 8, 64, 256), ("zipf", 256, 64)]),
        *_decodes("llama-3-8b", (32,), _distinct(8, 64)),
        *_decodes("llama-3-8b", (64,), [*_distinct(1, 8, 64), ("identical", 64, 1), ("zipf", 256, 64)]),
        *_decodes("llama-3-8b", MIXED, [*_distinct(8, 64, 256), ("uniform", 64, 8), ("zipf", 1024, 512)]),
        *_decodes("llama-7b", (8,), [*_distinct(1, 32, 256), ("identical", 256, 1), ("zipf", 256, 100)]),
        *_decodes("llama-7b", MIXED, [*_distinct(1, 32, 256), ("uniform", 256, 64), ("zipf", 64, 32)]),
        *_decodes("llama-70b/tp8", (16,), [*_distinct(1, 8, 64, 256), ("identical", 64, 1), ("zipf", 256, 64)]),
        *_decodes("llama-70b/tp4", MIXED, [*_distinct(8, 64), ("uniform", 256, 32)]),
        *(point for ranks in ((8,), (16,), (32,), (64,)) for point in _prefills("llama-3-8b", ranks, PREFILLS)),
        *_prefills("llama-3-8b", MIXED, [(8192, 64)]),
        *_prefills("llama-3-8b", (16,), [(512, 4), (2048, 8)]),
        *_prefills("llama-7b", (8,), [(8192, 8)]),
        *_prefills("llama-7b", MIXED, [(8192, 32)]),
        *_prefills("llama-70b/tp8", (16,), [(8192, 8)]),
    ]


PREFILLS = ((8192, 1), (8192, 8), (8192, 64))


def measure_point(point: LoraPoint, contenders: Sequence[Contender], refused: Refused) -> dict[str, Timing]:
    """Checks every contender, then times it. One that cannot run is left out, and so is one whose result is wrong."""
    case = LoraCase(point)
    timings = {}
    for contender in contenders:
        add = contender.prepare(case)
        if add is None:
            continue
        with refused.unless_right():
            check(case, add, contender.name)
            timings[contender.name] = time_calls(layer_calls(case, add))
        del add
    return timings


def layer_calls(case: LoraCase, run: Run) -> list[Callable[[], None]]:
    """Whole layers in turn: all of them once, and again until there are CALLS."""

    def call(layer: int) -> Callable[[], None]:
        def run_groups() -> None:
            for index in range(len(case.model.groups)):
                run(layer, index)

        return run_groups

    calls = [call(layer) for layer in range(case.num_layers)]
    return list(islice(cycle(calls), max(case.num_layers, CALLS)))


def check(case: LoraCase, run: Run, name: str, linear: Run | None = None) -> None:
    """Compares two layers' outputs with float64, and leaves them as they were.

    Args:
        case: the data.
        run: adds LoRA; or, if there is a `linear`, does that and adds LoRA.
        name: who is blamed.
        linear: overwrites the outputs.
    """
    for layer in {0, case.num_layers - 1}:
        outputs = case.layers[layer].outputs
        kept = [output.clone() for output in outputs]
        if linear is not None:
            _run_groups(linear, case, layer)
        before = [output.clone() for output in outputs]
        _run_groups(run, case, layer)
        for output, right, old in zip(outputs, case.expected(layer, before), before, strict=True):
            check_result(f"{name} on {case.point.name}", output, right, changed=old)
        for output, old in zip(outputs, kept, strict=True):
            output.copy_(old)


def _run_groups(run: Run, case: LoraCase, layer: int) -> None:
    with on_capture_stream():
        for index in range(len(case.model.groups)):
            run(layer, index)
