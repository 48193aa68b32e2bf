"""Arrays reach the device as they were."""

from array import array

import numpy as np
import torch

from worker.engine.staging import joined, to_device


def test_every_type_and_shape_arrives(device: torch.device) -> None:
    sources = [
        np.arange(5, dtype=np.int32),
        np.array([1.5, -2.0, 3.25], dtype=np.float32),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.zeros(0, dtype=np.int64),
        np.array([0.1], dtype=np.float64),
        np.arange(21, dtype=np.int32).reshape(1, 7, 3),
    ]
    tensors = to_device(sources, device)
    assert all(tensor.device.type == device.type for tensor in tensors)
    for tensor, source in zip(tensors, sources, strict=True):
        expected = torch.from_numpy(source)
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor.cpu(), expected)


def test_ids_are_joined_in_order() -> None:
    assert joined([array("q", [1, 2]), array("q"), array("q", [2**40])], np.int64).tolist() == [1, 2, 2**40]
    assert joined([array("i", [3]), array("i", [-1])], np.int32).tolist() == [3, -1]
