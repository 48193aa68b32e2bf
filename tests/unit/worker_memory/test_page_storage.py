import pytest
import torch

from worker.memory.errors import PoolTooSmall
from worker.memory.layout import ModelShape, PageGeometry
from worker.memory.storage import PageStorage, page_size_bytes, pages_in_budget

GEOMETRY = PageGeometry(ModelShape(3, 8, 2, 1, 4, 16), block_size=4)


def test_storage_is_layers_by_pages_by_elements_and_finite() -> None:
    storage = PageStorage(GEOMETRY, 5, torch.bfloat16, "cpu")
    assert storage.pages.shape == (3, 5, 32)
    assert storage.num_pages == 5
    assert storage.pages.nbytes == 5 * page_size_bytes(GEOMETRY, torch.bfloat16)
    assert torch.isfinite(storage.pages).all()


def test_a_budget_is_spent_on_whole_pages() -> None:
    page = page_size_bytes(GEOMETRY, torch.float32)
    assert page == 3 * 32 * 4
    assert pages_in_budget(10 * page + page // 2, GEOMETRY, torch.float32, min_tokens=40) == 10


def test_a_budget_too_small_for_one_sequence_is_refused() -> None:
    page = page_size_bytes(GEOMETRY, torch.float32)
    with pytest.raises(PoolTooSmall, match=f"41 tokens needs 11: set at least {11 * page} bytes"):
        pages_in_budget(10 * page, GEOMETRY, torch.float32, min_tokens=41)
