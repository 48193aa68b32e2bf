"""What else a step needs: each op checked and timed beside its byte floor and the same in torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor

from benchmarks.kernels.correctness import check_result
from benchmarks.kernels.floors import Work, tensor_work
from benchmarks.kernels.lora_case import DTYPE, ROTATION_BYTES
from benchmarks.kernels.shapes import BLOCK_SIZE, MODELS, Model
from benchmarks.kernels.timing import Timing, capture_stream, time_calls
from kernels.paging import naive as naive_paging
from kernels.paging import write_kv

MAX_SETS = 256
CALLS = 48  # of one graph


@dataclass(frozen=True)
class Data:
    """One set of an op's tensors.

    Attributes:
        run: by contender, the op; returns what it computes, which may be what it changed.
        expected: the right result, float64.
        work: its bytes.
    """

    run: Mapping[str, Callable[[], Tensor]]
    expected: Callable[[], Tensor]
    work: Work


@dataclass(frozen=True)
class StepPoint:
    """An op at one model's widths and one batch."""

    op: str
    model: str
    num_rows: int

    def draw(self) -> Data:
        """Random data on the GPU."""
        return OPS[self.op](MODELS[self.model], self.num_rows)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.op}, {self.model}, {self.num_rows:,} rows"


def quick_points() -> list[StepPoint]:
    """Each op at one batch."""
    return [StepPoint(op, "llama-3-8b", 64) for op in OPS]


def all_points() -> list[StepPoint]:
    """Each op from one row to a long prompt."""
    return [StepPoint(op, model, rows) for op in OPS for model, rows in SIZES]


SIZES = (("llama-3-8b", 1), ("llama-3-8b", 64), ("llama-3-8b", 256), ("llama-3-8b", 8192), ("llama-7b", 256))


def measure_step(point: StepPoint) -> tuple[Work, dict[str, Timing]]:
    """Checks each contender against float64, then times it.

    Raises:
        WrongAnswer: naming the contender.
    """
    first = point.draw()
    num_sets = max(2, min(MAX_SETS, -(-ROTATION_BYTES // first.work.num_bytes)))
    sets = [first, *(point.draw() for _ in range(num_sets - 1))]
    timings = {}
    for name in first.run:
        data = point.draw()
        right = data.expected()
        with torch.cuda.stream(capture_stream()):
            output = data.run[name]()
        torch.cuda.synchronize()
        check_result(f"{name} on {point.name}", output, right)
        timings[name] = time_calls(list(islice(cycle([data.run[name] for data in sets]), max(num_sets, CALLS))))
    return first.work, timings


def _write_kv(model: Model, num_rows: int) -> Data:
    shape = model.shape
    key, value = _draw(2, num_rows, shape.num_kv_heads, shape.head_dim)
    num_pages = -(-num_rows // BLOCK_SIZE) * 4
    pages = torch.zeros(num_pages, model.geometry.page_elements, dtype=DTYPE, device="cuda")
    slots = torch.randperm(num_pages * BLOCK_SIZE, device="cuda")[:num_rows]

    def expected() -> Tensor:
        right = pages.clone()
        naive_paging.write_kv(right, key, value, slots, BLOCK_SIZE)
        return right.double()

    def ours() -> Tensor:
        write_kv(pages, key, value, slots, BLOCK_SIZE)
        return pages

    return Data({"ours": ours}, expected, tensor_work(key, value, key, value))


def _draw(*sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=DTYPE, device="cuda")


OPS: Mapping[str, Callable[[Model, int], Data]] = {"write_kv": _write_kv}
