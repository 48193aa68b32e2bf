"""Tensors in poisoned memory: what an op must not touch is NaN before and after."""

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Triton's interpreter cuts a bfloat16 off where a GPU and torch round it.
ROUNDED = {name: dtype for name, dtype in DTYPES.items() if DEVICE == "cuda" or name != "bf16"}


def poisoned(values: Tensor, margin: int = 5) -> tuple[Tensor, Tensor]:
    """`values` as rows of a tensor of NaN that is wider by twice the margin, and that tensor."""
    around = torch.full((values.shape[0] + 2, values.shape[1] + 2 * margin), torch.nan, dtype=values.dtype)
    around = around.to(DEVICE)
    inner = around[1:-1, margin : margin + values.shape[1]]
    inner.copy_(values)
    return inner, around


def untouched(inner: Tensor, around: Tensor) -> bool:
    """Whether all around `inner` is NaN still."""
    there = around.clone()
    offset = inner.storage_offset() - around.storage_offset()
    row, column = divmod(offset, around.stride(0))
    there[row : row + inner.shape[0], column : column + inner.shape[1]] = torch.nan
    return bool(there.isnan().all())


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal in every bit, NaN included."""
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
