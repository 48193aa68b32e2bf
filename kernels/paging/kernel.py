"""Writes to the page pool in Triton."""

import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import launch
from kernels.paging.checks import check_copy, check_kv

_BLOCK = 8192  # elements that a program moves at once
# Programs that read the host's memory: each has 16 KiB on its way, so that together they have twice what the bus
# delivers in the 2 us that a read takes.
_HOST_READERS = 16


@triton.jit
def _write_kv(
    pages, key, value, slots, key_stride, value_stride, num_slots, width, BLOCK_SIZE: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row)
    inside = columns < tl.where((slot >= 0) & (slot < num_slots), width, 0)
    page = slot // BLOCK_SIZE
    target = pages + (page * 2 * BLOCK_SIZE + slot % BLOCK_SIZE) * width + columns
    tl.store(target, tl.load(key + row * key_stride + columns, inside), inside)
    tl.store(target + BLOCK_SIZE * width, tl.load(value + row * value_stride + columns, inside), inside)


# One compilation for adapters of any number of pages, wherever they lie and their ids begin.
@triton.jit(
    do_not_specialize=["num_copied", "num_items", "num_sources"],
    do_not_specialize_on_alignment=["page_ids", "source_ids"],
)
def _copy_pages(
    pages,
    page_ids,
    source,
    source_ids,
    num_pages,
    num_sources,
    page_elements,
    layer_stride,
    page_stride,
    num_copied,
    num_blocks,
    num_items,
    HAS_SOURCE_IDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        columns = (item % num_blocks) * BLOCK + tl.arange(0, BLOCK)
        index = (item // num_blocks) % num_copied
        layer = (item // num_blocks // num_copied).to(tl.int64)
        page = tl.load(page_ids + index)
        origin = index.to(tl.int64)
        if HAS_SOURCE_IDS:
            origin = tl.load(source_ids + index)
        is_copied = (page >= 0) & (page < num_pages) & (origin >= 0) & (origin < num_sources)
        inside = columns < tl.where(is_copied, page_elements, 0)
        values = tl.load(source + layer * layer_stride + origin * page_stride + columns, inside)
        tl.store(pages + (layer * num_pages + page) * page_elements + columns, values, inside)


def write_kv(pages: Tensor, key: Tensor, value: Tensor, slots: Tensor, block_size: int) -> None:
    """As `kernels.paging.write_kv`."""
    check_kv(pages, key, value, slots, block_size)
    num_rows, width = key.shape[0], key.shape[1] * key.shape[2]
    if num_rows:
        block = min(1024, triton.next_power_of_2(width))
        launch(
            _write_kv,
            (num_rows, triton.cdiv(width, block)),
            pages,
            key,
            value,
            slots,
            key.stride(0),
            value.stride(0),
            pages.shape[0] * block_size,
            width,
            BLOCK_SIZE=block_size,
            BLOCK=block,
            num_warps=4,
        )


def copy_pages(pages: Tensor, page_ids: Tensor, source: Tensor, *, source_ids: Tensor | None = None) -> None:
    """As `kernels.paging.copy_pages`."""
    check_copy(pages, page_ids, source, source_ids)
    num_layers, num_pages, page_elements = pages.shape
    num_copied = page_ids.shape[0]
    block = min(_BLOCK, triton.next_power_of_2(page_elements))
    num_blocks = triton.cdiv(page_elements, block)
    num_items = num_layers * num_copied * num_blocks
    is_on_host = source.device != pages.device
    if num_items:
        launch(
            _copy_pages,
            (min(num_items, _HOST_READERS) if is_on_host else num_items,),
            pages,
            page_ids,
            source,
            page_ids if source_ids is None else source_ids,
            num_pages,
            source.shape[1],
            page_elements,
            source.stride(0),
            source.stride(1),
            num_copied,
            num_blocks,
            num_items,
            HAS_SOURCE_IDS=source_ids is not None,
            BLOCK=block,
            num_warps=8,
        )
