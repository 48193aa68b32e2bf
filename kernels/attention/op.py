"""The op that the model calls: the kernel of the device, or the reference."""

from torch import Tensor

from kernels.attention import reference
from kernels.attention.batch import AttentionBatch
from kernels.attention.checks import check
from kernels.device import kernel_of


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
    arXiv 2403.02310. Work follows the pages that the rows can see. On a GPU nothing is read by the host, so that a
    CUDA graph of one batch may be replayed with other contents of its tables, and a row's result has the same bits
    whatever else is in the batch.

    Args:
        query: `[num_rows, num_heads, head_dim]`, unit stride in the last, with positions already rotated in; dtype and
            device as `pages`.
        pages: One layer's pages, `[num_pages, 2 * block_size * num_kv_heads * head_dim]`, contiguous, this step's keys
            and values written; not changed. Slots past a sequence's end are never used, whatever they hold.
        batch: The sequences.
        num_kv_heads: Heads of keys and values; divides `num_heads`.
        block_size: Tokens of a page.
        scale: Factor of the scores; positive.
        window: Positions that a row sees, its own included; None: all.

    Returns:
        `[num_rows, num_heads, head_dim]`, contiguous; dtype and device as `query`. Rows that no sequence owns are not
        written.

    Raises:
        ValueError: An argument has the wrong rank, shape, dtype, strides or device; named with what is wanted.
    """
    check(query, pages, batch, num_kv_heads=num_kv_heads, block_size=block_size, scale=scale, window=window)
    implementation = kernel_of("attention") if query.is_cuda else reference
    attended: Tensor = implementation.paged_attention(
        query, pages, batch, num_kv_heads=num_kv_heads, block_size=block_size, scale=scale, window=window
    )
    return attended
