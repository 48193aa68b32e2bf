"""Which layers stand for all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.attention import AttentionBatch
from tests.unit.worker_model.model_directories import write_config
from worker.memory.layout import PageGeometry
from worker.memory.storage import PageStorage
from worker.model import decoder as module
from worker.model.batch import ForwardBatch
from worker.model.config import ModelConfig, read_config
from worker.model.decoder import Decoder
from worker.model.dummy import DummyCheckpoint
from worker.model.weights import expected_shapes, read_weights

BLOCK_SIZE = 16
Windows = tuple[int | None, ...]


def windows_seen(config: ModelConfig, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> Windows:
    """Of the layers that a step of the decoder computes, one after the other."""
    seen: list[int | None] = []
    attend = module.paged_attention

    def noted(*args: Any, window: int | None, **options: Any) -> torch.Tensor:
        seen.append(window)
        return attend(*args, window=window, **options)

    pages = PageStorage(PageGeometry(config.shape, BLOCK_SIZE), 1, decoder.dtype, decoder.device).pages
    starts, lengths, table = torch.tensor([[0, 2], [2, 0], [0, 0]], dtype=torch.int32)
    rows = torch.arange(2)
    attention = AttentionBatch(starts, lengths[:1], table[None, :1], kv_slots=rows)
    batch = ForwardBatch(token_ids=rows, positions=rows, attention=attention, lora=None, logit_rows=rows[1:])
    with monkeypatch.context() as patched:
        patched.setattr(module, "paged_attention", noted)
        assert decoder.forward(batch, pages).shape == (1, config.vocab_size)
    return tuple(seen)


@pytest.mark.parametrize(
    ("windows", "kept"),
    [
        ((None,), (None,)),
        ((None,) * 2, (None, None)),
        ((None,) * 5, (None, None, None)),
        ((8,) * 5, (8, 8, 8)),
        ((None, None, None, 8, 8), (None, None, 8, 8)),
        ((8, None, 8, None, 8), (8, None, 8, 8)),
        ((8, None, None, None), (8, None, None)),
    ],
)
def test_a_shortened_decoder_has_a_first_and_a_last_layer_and_later_ones_of_each_window(
    windows: Windows, kept: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(write_config(tmp_path, num_hidden_layers=len(windows)))
    config = replace(config, traits=replace(config.traits, windows=windows))
    cpu = torch.device("cpu")
    checkpoint = DummyCheckpoint(expected_shapes(config), torch.float32, cpu)
    decoder = Decoder(config, read_weights(checkpoint, config, torch.float32, cpu))
    assert windows_seen(config, decoder, monkeypatch) == windows
    assert windows_seen(config, decoder.shortened(), monkeypatch) == kept
