"""Rows that want their tokens chosen in different ways, and logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.sampling import Choices
from tests.kernels.buffers import DEVICE


@dataclass(frozen=True)
class Row:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    uniform: float = 0.5

    @property
    def is_truncated(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


ROWS = [
    Row(0.0),
    Row(),
    Row(0.3, uniform=0.99),
    Row(2.0, uniform=0.01),
    Row(1e-30),
    Row(top_k=1),
    Row(top_k=5, uniform=0.9),
    Row(top_k=100_000, uniform=0.3),
    Row(top_p=0.5, uniform=0.7),
    Row(top_p=1e-9, uniform=0.999),
    Row(min_p=0.2, uniform=0.95),
    Row(min_p=1.0),
    Row(0.7, top_k=20, top_p=0.8, min_p=0.05, uniform=0.6),
    Row(1.5, top_k=7, top_p=0.6, uniform=1 - 2**-53),
    Row(1.5, top_k=3, top_p=0.99, uniform=0.0),
]


def choices_of(rows: list[Row]) -> Choices:
    def table(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=DEVICE)

    drawn = [index for index, row in enumerate(rows) if row.temperature > 0]
    return Choices(
        temperature=table([row.temperature for row in rows], torch.float32),
        top_k=table([row.top_k for row in rows], torch.int64),
        top_p=table([row.top_p for row in rows], torch.float64),
        min_p=table([row.min_p for row in rows], torch.float64),
        whole_rows=table([index for index in drawn if not rows[index].is_truncated], torch.int64),
        truncated_rows=table([index for index in drawn if rows[index].is_truncated], torch.int64),
        has_top_k=any(rows[index].top_k > 0 for index in drawn),
        has_top_p=any(rows[index].top_p < 1 for index in drawn),
    )


def draw_logits(num_rows: int, vocab: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, vocab, generator=generator) * 3).to(DEVICE)
