"""The ops that the model and the loader call: the kernel of the device, or the reference."""

from torch import Tensor

from kernels.device import kernel_of
from kernels.paging import reference


def write_kv(pages: Tensor, key: Tensor, value: Tensor, slots: Tensor, block_size: int) -> None:
    """Writes each row's key and value to its slot.

    With `page, offset = divmod(slots[t], block_size)` and pages seen as `[2, block_size, num_kv_heads, head_dim]`:

        pages[page][0, offset] = key[t]
        pages[page][1, offset] = value[t]

    Paged KV as in PagedAttention, arXiv 2309.06180. A row whose slot is negative, one that pads a batch to the size of
    a CUDA graph, writes nothing; batches on a CPU have no such rows.

    Args:
        pages: One layer's pages, `[num_pages, 2 * block_size * num_kv_heads * head_dim]`, contiguous; written in place.
        key: `[num_rows, num_kv_heads, head_dim]`, a row's heads side by side; dtype and device as `pages`.
        value: As `key`.
        slots: `[num_rows]` int64, contiguous, distinct where not negative.
        block_size: Tokens of a page.
    """
    if pages.is_cuda:
        kernel_of("paging").write_kv(pages, key, value, slots, block_size)
    else:
        reference.write_kv(pages, key, value, slots, block_size)


def copy_pages(pages: Tensor, page_ids: Tensor, source: Tensor, *, source_ids: Tensor | None = None) -> None:
    """Puts an adapter's pages in their places, in all layers: after one large copy to the device, one launch.

        pages[layer, page_ids[i]] = source[layer, source_ids[i]]

    `source` may lie in pinned memory of the host, which a kernel reads by itself: this then is the copy. It is done by
    few programs, as many as fill the bus, so that other kernels find room beside it.

    Args:
        pages: The pool, `[num_layers, num_pages, page_elements]`, contiguous; written in place.
        page_ids: `[n]` int64 on the pool's device, contiguous, distinct; one that is out of range writes nothing.
        source: `[num_layers, num_sources, page_elements]` with unit stride in the last, so that pages may come one
            after the other, each with all its layers; dtype as `pages`.
        source_ids: `[n]` int64 on the pool's device, contiguous; None: `i` itself.
    """
    if pages.is_cuda:
        kernel_of("paging").copy_pages(pages, page_ids, source, source_ids=source_ids)
    else:
        reference.copy_pages(pages, page_ids, source, source_ids=source_ids)
