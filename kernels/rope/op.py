"""The ops that the model calls: the kernel of the device, or the reference.

RoFormer, arXiv 2104.09864: element pair `(i, i + head_dim / 2)` of a head turns by `position * frequency[i]`.
"""

import torch
from torch import Tensor

from kernels.device import kernel_of
from kernels.lora.delta import LoraDelta
from kernels.rope import reference


def angles(positions: Tensor, frequencies: Tensor, amplitude: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines, and sines with the signs of a rotation, made once a step for all layers.

    With `a[t, i] = positions[t] * frequencies[i]` in float32, and both rounded to `dtype`, as transformers does:

        cosines[t] = amplitude * [cos(a[t]), cos(a[t])]
        sines[t] = amplitude * [-sin(a[t]), sin(a[t])]

    Args:
        positions: `[num_rows]` int64, contiguous, at least 0.
        frequencies: `[head_dim / 2]` float32, contiguous.
        amplitude: Factor of cosine and sine.
        dtype: That of queries and keys.

    Returns:
        Two `[num_rows, 1, head_dim]`, contiguous.
    """
    if positions.is_cuda:
        found: tuple[Tensor, Tensor] = kernel_of("rope").angles(positions, frequencies, amplitude, dtype)
        return found
    return reference.angles(positions, frequencies, amplitude, dtype)


def rotate_and_write(
    qkv: Tensor,
    turns: tuple[Tensor, Tensor],
    pages: Tensor,
    slots: Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    block_size: int,
    head_norm: Tensor | None = None,
    epsilon: float = 0.0,
    delta: LoraDelta | None = None,
) -> Tensor:
    """Rotates queries and keys; writes keys and values to their slots in the pool.

    With the heads of row `t` of `qkv` being queries, then keys, then values, and `h = norm(h)` first for queries and
    keys if there is a norm (as in `kernels.norm`, per head, with weight `head_norm[head]`):

        turned[t, head] = h * cosines[t] + [h[d / 2:], h[:d / 2]] * sines[t]

    where both products and the sum are rounded to the dtype, as transformers does. Slots are as in
    `kernels.paging.write_kv`, and so is the layout of a page. A row whose slot is negative, one that pads a batch to
    the size of a CUDA graph, writes nothing to the pool; batches on a CPU have no such rows.

    Args:
        qkv: `[num_rows, (num_heads + 2 * num_kv_heads) * head_dim]`, contiguous; on a GPU its queries are overwritten.
        turns: Cosines and sines of the rows, of `angles`.
        pages: One layer's pages, `[num_pages, 2 * block_size * num_kv_heads * head_dim]`, contiguous; written in place.
        slots: `[num_rows]` int64, contiguous, distinct where not negative.
        num_heads: Heads of queries.
        num_kv_heads: Heads of keys and of values.
        block_size: Tokens of a page.
        head_norm: `[num_heads + num_kv_heads, head_dim]`, contiguous; None: no norm.
        epsilon: Added to the mean square.
        delta: Adapters' share of `qkv`, with q, k and v as its outputs, which is added first; None: there is none.

    Returns:
        The rotated queries, `[num_rows, num_heads, head_dim]`, unit stride in the last.
    """
    implementation = kernel_of("rope").rotate_and_write if qkv.is_cuda else reference.rotate_and_write
    query: Tensor = implementation(
        qkv,
        turns,
        pages,
        slots,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        block_size=block_size,
        head_norm=head_norm,
        epsilon=epsilon,
        delta=delta,
    )
    return query
