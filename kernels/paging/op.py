"""The op that the model calls: the kernel of the device, or the reference."""

from collections.abc import Callable

from torch import Tensor

from kernels.paging import reference

KERNELS: dict[str, Callable[..., None]] = {}  # by device type; a device that is not here runs the reference


def write_kv(pages: Tensor, key: Tensor, value: Tensor, slots: Tensor, block_size: int) -> None:
    """Writes each row's key and value to its slot.

    With `page, offset = divmod(slots[t], block_size)` and pages seen as `[2, block_size, num_kv_heads, head_dim]`:

        pages[page][0, offset] = key[t]
        pages[page][1, offset] = value[t]

    Paged KV as in PagedAttention, arXiv 2309.06180.

    Args:
        pages: One layer's pages, `[num_pages, 2 * block_size * num_kv_heads * head_dim]`, contiguous; written in place.
        key: `[num_rows, num_kv_heads, head_dim]`; dtype and device as `pages`.
        value: As `key`.
        slots: `[num_rows]` int64, distinct and not negative.
        block_size: Tokens of a page.
    """
    KERNELS.get(pages.device.type, reference.write_kv)(pages, key, value, slots, block_size)
