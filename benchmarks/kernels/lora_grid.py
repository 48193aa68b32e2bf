"""The LoRA grid: its points, and how one is checked and timed."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice

from torch import Tensor

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
        *first_points(),
        *_decodes("llama-3-8b", (16,), [("identical", 64, 1), ("zipf", 256, 128)]),
        *_decodes("llama-3-8b", MIXED, _distinct(64)),
        *_decodes("llama-7b", (8,), _distinct(32)),
        *_decodes("llama-70b/tp8", (16,), _distinct(64)),
        *_prefills("llama-3-8b", (16,), [(8192, 8)]),
    ]


def first_points() -> list[LoraPoint]:
    """Those that goals speak of."""
    return _decodes("llama-3-8b", (16,), _distinct(64, 256, 8))


def all_points() -> list[LoraPoint]:
    """The whole grid, what says most first: every popularity, every model, batch 1 to 1,024, 1 to 512 adapters."""
    return [
        *first_points(),
        *_decodes("llama-3-8b", (16,), [("identical", 64, 1), ("zipf", 256, 128), ("uniform", 256, 64)]),
        *_decodes("llama-3-8b", MIXED, [*_distinct(64, 8), ("zipf", 1024, 512), ("uniform", 64, 8)]),
        *_decodes("llama-7b", (8,), [*_distinct(32, 256, 1), ("zipf", 256, 100)]),
        *_decodes("llama-3-8b", (16,), [*_distinct(1, 32, 512), ("identical", 1024, 1)]),
        *_prefills("llama-3-8b", (16,), [(8192, 8), (8192, 1), (8192, 64)]),
        *_decodes("llama-70b/tp8", (16,), [*_distinct(64, 8, 256), ("zipf", 256, 64)]),
        *_decodes("llama-3-8b", (64,), [*_distinct(64, 8, 1), ("identical", 64, 1), ("zipf", 256, 64)]),
        *_decodes("llama-3-8b", (8,), [*_distinct(64, 8), ("zipf", 256, 64)]),
        *_prefills("llama-3-8b", (64,), [(8192, 8), (8192, 1), (8192, 64)]),
        *_decodes("llama-7b", MIXED, [*_distinct(32, 256), ("uniform", 256, 64)]),
        *_decodes("llama-3-8b", (16,), [("identical", 8, 1), ("zipf", 64, 64), ("zipf", 1024, 512)]),
        *_decodes("llama-3-8b", (16,), [("uniform", 1024, 512)]),
        *_decodes("llama-3-8b", MIXED, [*_distinct(256), ("uniform", 1000, 200)]),
        *_decodes("llama-7b", (8,), [("uniform", 510, 100)]),
        *_decodes("llama-70b/tp4", MIXED, [*_distinct(64), ("uniform", 256, 32)]),
        *_decodes("llama-3-8b", (32,), _distinct(64)),
        *_prefills("llama-3-8b", (8,), [(8192, 8), (8192, 1), (8192, 64)]),
        *_prefills("llama-3-8b", (32,), [(8192, 8), (8192, 1), (8192, 64)]),
        *_prefills("llama-3-8b", (16,), [(512, 4), (2048, 8)]),
        *_prefills("llama-7b", (8,), [(8192, 8)]),
        *_prefills("llama-70b/tp8", (16,), [(8192, 8)]),
    ]


def measure_point(point: LoraPoint, contenders: Sequence[Contender], refused: Refused) -> dict[str, Timing]:
    """Checks every contender, then times it. One that cannot run is left out, and so is one whose result is wrong."""
    case = LoraCase(point)
    judge = Judge(case)
    timings = {}
    for contender in contenders:
        with refused.unless_right(f"{contender.name} on {point.name}"):
            run = contender.prepare(case)
            if run is not None:
                judge.check(run)
                timings[contender.name] = time_calls(layer_calls(case, partial(_run_groups, run, case)))
        run = None
    return timings


def layer_calls(case: LoraCase, run: Callable[[int], object]) -> list[Callable[[], object]]:
    """Whole layers in turn: all of them once, and again until there are CALLS.

    Args:
        case: how many there are.
        run: runs one.
    """
    calls = [partial(run, layer) for layer in range(case.num_layers)]
    least = case.num_layers if case.point.phase == "prefill" else CALLS
    return list(islice(cycle(calls), max(case.num_layers, least)))


class Judge:
    """Knows the right outputs of a case's first and last layer.

    Args:
        case: the data.
        linear: what overwrites the outputs before LoRA is added, if something does.
    """

    def __init__(self, case: LoraCase, linear: Run | None = None) -> None:
        self._case = case
        self._before: dict[int, list[Tensor]] = {}
        self._right: dict[int, list[Tensor]] = {}
        for layer in {0, case.num_layers - 1}:
            if linear is not None:
                with on_capture_stream():
                    _run_groups(linear, case, layer)
            self._before[layer] = [output.clone() for output in case.layers[layer].outputs]
            self._right[layer] = case.expected(layer, self._before[layer])

    def check(self, run: Run) -> None:
        """Runs it once on each of the layers, whose outputs are what they were at first.

        Raises:
            WrongAnswer: with how far it is.
        """
        for layer, before in self._before.items():
            outputs = self._case.layers[layer].outputs
            for output, old in zip(outputs, before, strict=True):
                output.copy_(old)
            with on_capture_stream():
                _run_groups(run, self._case, layer)
            for output, right, old in zip(outputs, self._right[layer], before, strict=True):
                check_result(output, right, changed=old)


def _run_groups(run: Run, case: LoraCase, layer: int) -> None:
    for index in range(len(case.model.groups)):
        run(layer, index)
