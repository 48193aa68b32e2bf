"""Sampling: data of one batch, for the rest of a step."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.floors import tensor_work
from benchmarks.kernels.step_data import Data, Device
from kernels.sampling import Choices, sample
from kernels.sampling import reference as torch_sampling

TEMPERATURE, TOP_P = 0.8, 0.9


def sampling_data(vocab: int, num_rows: int, device: Device, *, greedy: bool) -> Data:
    """Rows that all take the likeliest token, or that all draw with a temperature and top-p.

    Its floor is reading the logits once. Tokens are compared as rows of zeros with a one.
    """
    logits = 3 * torch.randn(num_rows, vocab, device=device)
    every_row = torch.arange(num_rows, device=device)
    choices = Choices(
        temperature=torch.full((num_rows,), 0.0 if greedy else TEMPERATURE, device=device),
        top_k=torch.zeros(num_rows, dtype=torch.int64, device=device),
        top_p=torch.full((num_rows,), 1.0 if greedy else TOP_P, dtype=torch.float64, device=device),
        min_p=torch.zeros(num_rows, dtype=torch.float64, device=device),
        whole_rows=every_row[:0],
        truncated_rows=every_row[:0] if greedy else every_row,
        has_top_k=False,
        has_top_p=not greedy,
    )
    uniforms = None if greedy else torch.rand(num_rows, dtype=torch.float64, device=device)

    def right() -> Tensor:
        tokens = logits.argmax(1) if uniforms is None else _drawn(logits, uniforms)
        return _marked(tokens, vocab).double()

    run: dict[str, Any] = {
        "ours": lambda: sample(logits, choices, uniforms),
        "torch": lambda: torch_sampling.sample(logits, choices, uniforms),
    }
    return Data(run, right, tensor_work(logits), lambda tokens: _marked(tokens, vocab))


def _drawn(logits: Tensor, uniforms: Tensor) -> Tensor:
    """In float64: of the likeliest tokens, before which less than top-p lies, the one at which the sum exceeds u."""
    probabilities = (logits.double() / TEMPERATURE).softmax(1)
    falling = probabilities.sort(1, descending=True).values
    num_kept = (falling.cumsum(1) - falling < TOP_P).sum(1, keepdim=True)
    kept = probabilities.where(probabilities >= falling.gather(1, num_kept - 1), 0.0)
    sums = kept.cumsum(1)
    return torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)[:, 0]


def _marked(tokens: Tensor, vocab: int) -> Tensor:
    return torch.zeros(len(tokens), vocab, device=tokens.device).scatter_(1, tokens[:, None], 1.0)
