"""The least that an op has to move and compute, and the least time that takes on the machine at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.kernels.shapes import Model
from benchmarks.kernels.timing import time_calls
from worker.memory.layout import GROUPS

ELEMENT = 2  # bytes of a bf16 element


@dataclass(frozen=True)
class Work:
    """What an op cannot avoid: each input read once, each output written once, each product made once."""

    num_bytes: int
    flops: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.num_bytes + other.num_bytes, self.flops + other.flops)


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do, measured in the same run.

    Attributes:
        bytes_per_s: of a large copy in device memory, bytes read and written together.
        flops_per_s: of a large bf16 matrix product, a multiplication and an addition each counted.
    """

    bytes_per_s: float
    flops_per_s: float

    def floor_us(self, work: Work) -> float:
        """The larger of the two times."""
        return 1e6 * max(work.num_bytes / self.bytes_per_s, work.flops / self.flops_per_s)

    def described(self) -> dict[str, float]:
        """Rounded, for a file."""
        return {
            "copy_tb_per_s": round(self.bytes_per_s / 1e12, 3),
            "bf16_tflop_per_s": round(self.flops_per_s / 1e12, 1),
        }


def measure_ceilings(copy_bytes: int = 4 << 30, width: int = 8192) -> Ceilings:
    """Copies and multiplies random data; the faster of the driver's copy and an elementwise kernel."""
    source = torch.randn(copy_bytes // ELEMENT, dtype=torch.bfloat16, device="cuda")
    copied = torch.empty_like(source)
    copies = [lambda: copied.copy_(source), lambda: torch.neg(source, out=copied)]
    copy_us = min(time_calls([copy] * 4).median for copy in copies)
    left, right, product = (torch.randn(width, width, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    gemm_us = time_calls([lambda: torch.mm(left, right, out=product)] * 8).median
    return Ceilings(1e6 * 2 * copy_bytes / copy_us, 1e6 * 2 * width**3 / gemm_us)


def lora_work(model: Model, ranks: Sequence[int], rows: Sequence[int]) -> Work:
    """One layer's LoRA: the adapters, and the rows: x once for each group, outputs added to."""
    width = sum(model.in_features(group) + 2 * sum(model.widths(group)) for group in model.groups)
    return adapter_work(model, ranks, rows) + Work(sum(rows) * width * ELEMENT)


def adapter_work(model: Model, ranks: Sequence[int], rows: Sequence[int]) -> Work:
    """One layer's adapters and products with them: those that have rows are read, at their true rank."""
    width = sum(len(group) * model.in_features(group) + sum(model.widths(group)) for group in model.groups)
    live_ranks = sum(rank for rank, count in zip(ranks, rows, strict=True) if count)
    row_ranks = sum(rank * count for rank, count in zip(ranks, rows, strict=True))
    return Work(live_ranks * width * ELEMENT, 2 * row_ranks * width)


def linear_work(model: Model, num_rows: int) -> Work:
    """One layer's base linears."""
    num_bytes = sum(num_rows * (model.in_features(g) + sum(model.widths(g))) for g in GROUPS)
    return Work((num_bytes + model.linear_elements) * ELEMENT, 2 * num_rows * model.linear_elements)


def attention_work(model: Model, sequences: Sequence[tuple[int, int]], window: int | None = None) -> Work:
    """One layer's attention over sequences of `(context, rows)`, their last rows being queries.

    Of the KV, what any of its rows sees is read once; of the products, what each row sees is made.
    """
    shape = model.shape
    kv = row_elements = seen_in_all = 0
    for context, rows in sequences:
        first = 0 if window is None else max(0, context - rows + 1 - window)
        kv += (context - first) * 2 * shape.num_kv_heads * shape.head_dim
        row_elements += 2 * rows * shape.num_heads * shape.head_dim
        positions = range(context - rows, context)
        seen_in_all += sum(p + 1 if window is None else min(p + 1, window) for p in positions)
    return Work((kv + row_elements) * ELEMENT, 4 * shape.num_heads * shape.head_dim * seen_in_all)


def tensor_work(*tensors: Tensor) -> Work:
    """Reading or writing these once; name one twice if it is both."""
    return Work(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
