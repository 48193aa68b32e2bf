"""What a linear layer takes."""

from torch import Tensor


def check_linear(x: Tensor, weight: Tensor, out: Tensor, bias: Tensor | None) -> None:
    """Refuse what the kernel would read or write wrongly.

    Raises:
        ValueError: names the argument.
    """
    if x.dim() != 2 or x.stride(1) != 1 or not x.dtype.is_floating_point:
        raise ValueError(f"x has to be [num_rows, in_features] of a floating type with unit stride, not {_seen(x)}")
    kind = f"{x.dtype} on {x.device}"
    num_rows, in_features = x.shape
    if weight.dim() != 2 or weight.shape[1] != in_features or not weight.is_contiguous() or not alike(weight, x):
        raise ValueError(f"weight has to be [out_features, {in_features}] contiguous {kind}, not {_seen(weight)}")
    out_features = weight.shape[0]
    if out.shape != (num_rows, out_features) or out.stride(1) != 1 or not alike(out, x):
        raise ValueError(f"out has to be [{num_rows}, {out_features}] {kind} with unit stride, not {_seen(out)}")
    if bias is not None and (bias.shape != (out_features,) or not bias.is_contiguous() or not alike(bias, x)):
        raise ValueError(f"bias has to be [{out_features}] contiguous {kind}, not {_seen(bias)}")


def alike(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same dtype and device."""
    return tensor.dtype == other.dtype and tensor.device == other.device


def _seen(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} with strides {list(tensor.stride())} on {tensor.device}"
