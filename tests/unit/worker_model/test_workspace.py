"""The decoder's buffers: where they lie, and for how long."""

import gc
import weakref

import pytest
import torch

from worker.memory.layout import ModelShape
from worker.model.workspace import MAX_KEPT_ROWS, Buffers, Workspace

SHAPE = ModelShape(num_layers=2, hidden_size=12, num_heads=4, num_kv_heads=2, head_dim=4, intermediate_size=20)


def make() -> Workspace:
    return Workspace(SHAPE, torch.bfloat16, torch.device("cpu"))


def places(buffers: Buffers) -> list[int]:
    whole = (buffers.x, buffers.qkv, buffers.gate_up, buffers.inner, buffers.output)
    return [tensor.data_ptr() for tensor in (*whole, *buffers.qkv_columns, *buffers.gate_up_columns)]


@pytest.mark.parametrize("num_rows", [0, 1, 7, MAX_KEPT_ROWS, MAX_KEPT_ROWS + 1])
def test_every_buffer_has_its_size(num_rows: int) -> None:
    buffers = make().buffers(num_rows)
    assert buffers.x.shape == (num_rows, 12)
    assert buffers.qkv.shape == (num_rows, 32)
    assert [column.shape for column in buffers.qkv_columns] == [(num_rows, 16), (num_rows, 8), (num_rows, 8)]
    assert buffers.gate_up.shape == (num_rows, 40)
    assert [column.shape for column in buffers.gate_up_columns] == [(num_rows, 20)] * 2
    assert buffers.inner.shape == (num_rows, 20)
    assert buffers.output.shape == (num_rows, 12)
    for tensor in (buffers.x, buffers.qkv, buffers.gate_up, buffers.inner, buffers.output):
        assert tensor.is_contiguous()
        assert tensor.dtype == torch.bfloat16


def test_columns_are_those_of_the_whole() -> None:
    buffers = make().buffers(3)
    buffers.qkv.copy_(torch.arange(3 * 32).view(3, 32))
    buffers.gate_up.copy_(torch.arange(3 * 40).view(3, 40))
    assert torch.equal(torch.cat(buffers.qkv_columns, 1), buffers.qkv)
    assert torch.equal(torch.cat(buffers.gate_up_columns, 1), buffers.gate_up)


def test_kept_memory_never_moves() -> None:
    workspace = make()
    first = places(workspace.buffers(64))
    assert len(set(first)) == len(first) - 2, "nothing shares memory but a whole and its first column"
    for num_rows in (1, MAX_KEPT_ROWS, MAX_KEPT_ROWS + 1, 63):
        workspace.buffers(num_rows)
    assert places(workspace.buffers(64)) == first


def test_the_same_number_of_rows_gets_the_same_tensors() -> None:
    workspace = make()
    assert workspace.buffers(64) is workspace.buffers(64)
    assert workspace.buffers(63) is not workspace.buffers(64)


def test_a_prompts_memory_is_not_held() -> None:
    workspace = make()
    held = weakref.ref(workspace.buffers(MAX_KEPT_ROWS + 1).inner)
    gc.collect()
    assert held() is None
