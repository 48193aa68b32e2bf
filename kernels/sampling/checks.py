"""What the sampling kernels take."""

import torch
from torch import Tensor

from kernels.sampling.batch import Choices, Penalties

MAX_VOCAB = 2**18  # so that sums of integer weights stay below 2**63


def check(logits: Tensor, choices: Choices, uniforms: Tensor | None, penalties: Penalties | None) -> None:
    """Refuse what the kernels would read wrongly.

    Raises:
        ValueError: names the argument.
    """
    if logits.dim() != 2 or not logits.dtype.is_floating_point or (logits.shape[0] > 0 and logits.stride(1) != 1):
        raise ValueError(f"logits has to be [num_rows, vocab] of a floating type with unit stride, not {_seen(logits)}")
    num_rows, vocab = logits.shape
    if not 0 < vocab <= MAX_VOCAB:
        raise ValueError(f"logits is over {vocab} tokens; 1 to {MAX_VOCAB} are sampled")
    _check_list("choices.temperature", choices.temperature, num_rows, torch.float32)
    _check_list("choices.top_k", choices.top_k, num_rows, torch.int64)
    _check_list("choices.top_p", choices.top_p, num_rows, torch.float64)
    _check_list("choices.min_p", choices.min_p, num_rows, torch.float64)
    if uniforms is not None:
        _check_list("uniforms", uniforms, num_rows, torch.float64)
    elif choices.has_draws:
        raise ValueError("uniforms is None, and rows with a temperature need one each")
    if penalties is None:
        return
    num_penalised = penalties.rows.shape[0] if penalties.rows.dim() == 1 else 0
    if not 0 < num_penalised <= num_rows:
        raise ValueError(f"penalties.rows has to name 1 to {num_rows} rows, not {_seen(penalties.rows)}")
    _check_list("penalties.rows", penalties.rows, num_penalised, torch.int64)
    for name in ("repetition", "presence", "frequency"):
        _check_list(f"penalties.{name}", getattr(penalties, name), num_penalised, torch.float32)
    for name in ("seen", "output"):
        _check_list(f"penalties.{name}", getattr(penalties, name), None, torch.int64)


def _check_list(name: str, tensor: Tensor, length: int | None, dtype: torch.dtype) -> None:
    is_list = tensor.dim() == 1 and tensor.is_contiguous() and tensor.dtype == dtype
    if not is_list or (length is not None and tensor.shape[0] != length):
        wanted = "any" if length is None else length
        raise ValueError(f"{name} has to be [{wanted}] contiguous {dtype}, not {_seen(tensor)}")


def _seen(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} with strides {list(tensor.stride())}"
