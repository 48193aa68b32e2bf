"""What the rope kernels take."""

import torch
from torch import Tensor


def check_angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype) -> None:
    """Refuse what the kernel would read wrongly.

    Raises:
        ValueError: names the argument.
    """
    if positions.dim() != 1 or positions.dtype != torch.int64 or not positions.is_contiguous():
        raise ValueError(f"positions has to be [num_rows] contiguous int64, not {_seen(positions)}")
    if frequencies.dim() != 1 or frequencies.dtype != torch.float32 or not frequencies.is_contiguous():
        raise ValueError(f"frequencies has to be [head_dim / 2] contiguous float32, not {_seen(frequencies)}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype has to be a floating type, not {dtype}")


def check_rotation(
    qkv: Tensor,
    cosines: Tensor,
    sines: Tensor,
    pages: Tensor,
    slots: Tensor,
    head_norm: Tensor | None,
    num_heads: int,
    num_kv_heads: int,
    block_size: int,
) -> None:
    """Refuse what the kernel would read or write wrongly; a slot out of range only the device sees, and writes nothing.

    Raises:
        ValueError: names the argument.
    """
    if num_heads < 1 or num_kv_heads < 1 or block_size < 1:
        raise ValueError(
            f"num_heads, num_kv_heads and block_size are at least 1, not {num_heads}, {num_kv_heads}, {block_size}"
        )
    all_heads = num_heads + 2 * num_kv_heads
    if qkv.dim() != 2 or qkv.shape[1] % (2 * all_heads) or not qkv.shape[1] or not qkv.is_contiguous():
        raise ValueError(
            f"qkv has to be [num_rows, ({num_heads} + 2 * {num_kv_heads}) * head_dim] contiguous with an even "
            f"head_dim, not {_seen(qkv)}"
        )
    if not qkv.dtype.is_floating_point:
        raise ValueError(f"qkv has to be of a floating type, not {qkv.dtype}")
    num_rows, head_dim = qkv.shape[0], qkv.shape[1] // all_heads
    for name, table in (("cosines", cosines), ("sines", sines)):
        if table.shape != (num_rows, 1, head_dim) or table.dtype != qkv.dtype or not table.is_contiguous():
            raise ValueError(f"{name} has to be [{num_rows}, 1, {head_dim}] contiguous {qkv.dtype}, not {_seen(table)}")
    page_elements = 2 * block_size * num_kv_heads * head_dim
    if pages.dim() != 2 or pages.shape[1] != page_elements or pages.dtype != qkv.dtype or not pages.is_contiguous():
        raise ValueError(f"pages has to be [num_pages, {page_elements}] contiguous {qkv.dtype}, not {_seen(pages)}")
    if slots.shape != (num_rows,) or slots.dtype != torch.int64 or not slots.is_contiguous():
        raise ValueError(f"slots has to be [{num_rows}] contiguous int64, not {_seen(slots)}")
    norm_shape = (num_heads + num_kv_heads, head_dim)
    if head_norm is not None and (
        head_norm.shape != norm_shape or head_norm.dtype != qkv.dtype or not head_norm.is_contiguous()
    ):
        raise ValueError(f"head_norm has to be {list(norm_shape)} contiguous {qkv.dtype}, not {_seen(head_norm)}")


def _seen(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} with strides {list(tensor.stride())}"
