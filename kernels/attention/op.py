"""The op that the model calls: the kernel of the device, or the reference."""

from collections.abc import Callable

from torch import Tensor

from kernels.attention import reference
from kernels.attention.batch import AttentionBatch

KERNELS: dict[str, Callable[..., Tensor]] = {}  # by device type; a device that is not here runs the reference


def paged_attention(
    query: Tensor,
    pages: Tensor,
    batch: AttentionBatch,
    *,
    num_kv_heads: int,
    block_size: int,
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Causal attention of each row over its own sequence's keys and values in the pool.

    Row `t` of a sequence at position `p = context_len - query_stop + t` sees positions `j` in `(p - window, p]`, or all
    up to `p` without a window. Head `h` uses KV head `g = h // (num_heads / num_kv_heads)`:

        output[t, h] = sum over j of softmax_j(scale * query[t, h] . key[j, g]) * value[j, g]

    Paged KV as in PagedAttention, arXiv 2309.06180; decodes and chunks of prompts in one batch as in Sarathi-Serve,
    arXiv 2403.02310. Work follows the pages that the rows can see.

    Args:
        query: `[num_rows, num_heads, head_dim]`, with positions already rotated in; dtype and device as `pages`.
        pages: One layer's pages, `[num_pages, 2 * block_size * num_kv_heads * head_dim]`, contiguous, this step's keys
            and values written; not changed. Slots past a sequence's end are never used, whatever they hold.
        batch: The sequences.
        num_kv_heads: Heads of keys and values; divides `num_heads`.
        block_size: Tokens of a page.
        scale: Factor of the scores.
        window: Positions that a row sees, its own included; None: all.

    Returns:
        `[num_rows, num_heads, head_dim]`, dtype and device as `query`.
    """
    implementation = KERNELS.get(query.device.type, reference.paged_attention)
    return implementation(
        query, pages, batch, num_kv_heads=num_kv_heads, block_size=block_size, scale=scale, window=window
    )
