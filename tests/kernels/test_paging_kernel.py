"""Writes to the page pool in Triton: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from torch import Tensor

from kernels.paging import kernel, naive, reference
from tests.kernels.buffers import DEVICE, DTYPES, same_bits

BLOCK_SIZE = 4


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize(("num_rows", "num_heads", "head_dim"), [(0, 1, 8), (1, 1, 8), (7, 3, 5), (133, 2, 16)])
def test_write_kv(num_rows: int, num_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(num_rows)
    slots = torch.randperm(160)[:num_rows]
    slots[::3] = -1
    rows = torch.randn(num_rows, 2 * num_heads + 1, head_dim).to(dtype).to(DEVICE)
    key, value = rows[:, 1 : num_heads + 1], rows[:, num_heads + 1 :]
    guarded = torch.full((44, 2 * BLOCK_SIZE * num_heads * head_dim), torch.nan, dtype=dtype, device=DEVICE)
    expected = guarded.clone()
    naive.write_kv(expected[2:-2], key, value, slots.to(DEVICE), BLOCK_SIZE)
    kernel.write_kv(guarded[2:-2], key, value, slots.to(DEVICE), BLOCK_SIZE)
    assert same_bits(guarded, expected)


def pool(num_layers: int, num_pages: int, elements: int, dtype: torch.dtype) -> Tensor:
    return torch.full((num_layers, num_pages, elements), torch.nan, dtype=dtype, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("elements", [1, 96, 8192, 9000])
@pytest.mark.parametrize("is_page_major", [False, True])
def test_copy_pages(elements: int, dtype: torch.dtype, *, is_page_major: bool) -> None:
    """Of blocks with a layer's pages together, and with a page's layers together as the host's arena has them."""
    torch.manual_seed(elements)
    source = torch.randn(3, 5, elements).to(dtype).to(DEVICE)
    if is_page_major:
        source = source.transpose(0, 1).contiguous().transpose(0, 1)
    page_ids = torch.tensor([7, 0, 4, 2, 9], device=DEVICE)
    for source_ids in (None, torch.tensor([4, 4, 0, 1, 2], device=DEVICE)):
        pages, expected, referred = (pool(3, 11, elements, dtype) for _ in range(3))
        naive.copy_pages(expected, page_ids, source, source_ids=source_ids)
        reference.copy_pages(referred, page_ids, source, source_ids=source_ids)
        kernel.copy_pages(pages, page_ids, source, source_ids=source_ids)
        assert same_bits(pages, expected)
        assert same_bits(referred, expected)


def test_pages_out_of_range_are_not_copied() -> None:
    source = torch.randn(2, 4, 8, device=DEVICE)
    around = pool(4, 3, 8, torch.float32)
    kernel.copy_pages(around[1:3], torch.tensor([-1, 3, 2**40, -(2**40)], device=DEVICE), source)
    ids = torch.tensor([0, 1, 2], device=DEVICE)
    kernel.copy_pages(around[1:3], ids, source, source_ids=torch.tensor([-1, 4, 2**40], device=DEVICE))
    assert around.isnan().all()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an NVIDIA GPU")
def test_pinned_memory_is_read_in_place() -> None:
    source = torch.randn(6, 4, 5000).pin_memory().transpose(0, 1)
    pages, expected = pool(4, 9, 5000, torch.float32), pool(4, 9, 5000, torch.float32)
    ids, sources = torch.tensor([8, 3, 1], device=DEVICE), torch.tensor([5, 0, 2], device=DEVICE)
    kernel.copy_pages(pages, ids, source, source_ids=sources)
    naive.copy_pages(expected, ids, source.to(DEVICE), source_ids=sources)
    assert same_bits(pages, expected)
    with pytest.raises(ValueError, match="pinned memory"):
        kernel.copy_pages(pages, ids, torch.randn(4, 3, 5000))


@pytest.mark.parametrize("name", ["pages", "key", "value", "slots", "block_size"])
def test_a_bad_argument_of_write_kv_is_named(name: str) -> None:
    good = {
        "pages": torch.zeros(5, 2 * BLOCK_SIZE * 6, device=DEVICE),
        "key": torch.zeros(3, 2, 3, device=DEVICE),
        "value": torch.zeros(3, 2, 3, device=DEVICE),
        "slots": torch.arange(3, device=DEVICE),
        "block_size": BLOCK_SIZE,
    }
    bad = {
        "pages": [good["pages"][0], good["pages"][:, 1:], good["pages"][::2]],
        "key": [good["key"][:2], good["key"].half(), torch.zeros(3, 3, 2, device=DEVICE).transpose(1, 2)],
        "value": [good["value"][:2], good["value"].half(), torch.zeros(3, 2, 6, device=DEVICE)[:, :, :3]],
        "slots": [good["slots"].int(), good["slots"][:2], torch.arange(6, device=DEVICE)[::2]],
        "block_size": [0],
    }
    for value in bad[name]:
        with pytest.raises(ValueError, match=name):
            kernel.write_kv(**{**good, name: value})


@pytest.mark.parametrize("name", ["pages", "page_ids", "source", "source_ids"])
def test_a_bad_argument_of_copy_pages_is_named(name: str) -> None:
    good = {
        "pages": torch.zeros(2, 5, 8, device=DEVICE),
        "page_ids": torch.arange(3, device=DEVICE),
        "source": torch.zeros(2, 4, 8, device=DEVICE),
        "source_ids": torch.arange(3, device=DEVICE),
    }
    bad = {
        "pages": [good["pages"][0], good["pages"][:, ::2]],
        "page_ids": [good["page_ids"].int(), good["page_ids"][:, None], torch.arange(6, device=DEVICE)[::2]],
        "source": [good["source"][:1], good["source"].half(), good["source"][:, :, :7], good["source"][0]],
        "source_ids": [good["source_ids"].int(), good["source_ids"][:2]],
    }
    for value in bad[name]:
        given = {**good, name: value}
        with pytest.raises(ValueError, match=name):
            kernel.copy_pages(given["pages"], given["page_ids"], given["source"], source_ids=given["source_ids"])
    with pytest.raises(ValueError, match="page_ids"):
        kernel.copy_pages(good["pages"], torch.arange(5, device=DEVICE), good["source"])
