"""What the norm kernels take."""

import torch
from torch import Tensor

MAX_WIDTH = 65536  # a program holds a whole row


def check_norm(hidden: Tensor, update: Tensor | None, weight: Tensor, out: Tensor | None) -> None:
    """Refuse what the kernels would read wrongly.

    Raises:
        ValueError: names the argument.
    """
    if hidden.dim() != 2 or hidden.stride(1) != 1:
        raise ValueError(f"hidden has to be [num_rows, width] with unit stride, not {_seen(hidden)}")
    width = hidden.shape[1]
    if not 0 < width <= MAX_WIDTH:
        raise ValueError(f"hidden is {width} wide; 1 to {MAX_WIDTH} are computed")
    if not hidden.dtype.is_floating_point:
        raise ValueError(f"hidden has to be of a floating type, not {hidden.dtype}")
    if weight.shape != (width,) or weight.stride(0) != 1 or weight.dtype != hidden.dtype:
        raise ValueError(f"weight has to be [{width}] contiguous {hidden.dtype}, not {_seen(weight)}")
    if update is not None and (update.shape != hidden.shape or update.stride(1) != 1 or update.dtype != hidden.dtype):
        raise ValueError(f"update has to be as hidden, {_seen(hidden)}, with unit stride, not {_seen(update)}")
    if out is not None and (out.shape != hidden.shape or not out.is_contiguous() or out.dtype != hidden.dtype):
        raise ValueError(f"out has to be as hidden, {_seen(hidden)}, and contiguous, not {_seen(out)}")


def check_rows(rows: Tensor, hidden: Tensor) -> None:
    """Refuse what is no list of rows; that they are rows of `hidden` only the device can see.

    Raises:
        ValueError: names the argument.
    """
    if rows.dim() != 1 or rows.dtype != torch.int64 or not rows.is_contiguous() or rows.device != hidden.device:
        raise ValueError(f"rows has to be [num_wanted] contiguous int64 on {hidden.device}, not {_seen(rows)}")


def _seen(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} with strides {list(tensor.stride())} on {tensor.device}"
