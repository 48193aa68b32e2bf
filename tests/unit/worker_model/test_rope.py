"""Rotary frequencies and rotation equal those of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from kernels.rope.reference import turn
from tests.unit.worker_model.model_directories import write_config
from worker.model.config import read_config
from worker.model.rope import Rotation

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.5},
    {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192, "rope_theta": 500000.0},
    {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 1e6},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "truncate": False, "beta_fast": 16},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "attention_factor": 0.7},
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "mscale": 1.2,
        "mscale_all_dim": 0.8,
        "beta_slow": 2,
    },
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling["rope_type"])
def test_rotation_is_that_of_transformers(scaling: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    parameters = {"rope_theta": 10000.0, **scaling}
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "max_position_embeddings": 4096}
    theirs = LlamaRotaryEmbedding(LlamaConfig(**sizes, rope_parameters=dict(parameters)))
    config = read_config(write_config(tmp_path, **sizes, rope_parameters=parameters)).rope
    ours = Rotation(config, dtype, torch.device("cpu"))

    positions = torch.tensor([0, 1, 5, 63, 64, 1000, 4095])
    query = torch.randn(len(positions), 2, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    cosines, sines = theirs(query, positions[None])
    expected, _ = apply_rotary_pos_emb(query.transpose(0, 1)[None], query.transpose(0, 1)[None], cosines, sines)
    # Frequencies may differ in their last bit, which position 4095 turns into 4095 times as much.
    atol = 2e-3 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(turn(query, *ours.angles(positions)), expected[0].transpose(0, 1), atol=atol, rtol=0)
    torch.testing.assert_close(config.scaling.frequencies(config.theta, 64), theirs.inv_freq, atol=0, rtol=1e-6)
    assert config.scaling.amplitude == pytest.approx(theirs.attention_scaling)
