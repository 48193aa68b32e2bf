"""What the store writes is what the worker reads; the demo's adapters are all taken."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from adapter_store.base_model import load_base_model
from adapter_store.config import Limits, ModelConfig
from adapter_store.peft.directory import canonicalise
from adapter_store.types import MODULES, BaseModel
from tests.unit.adapter_store.peft_directories import (
    MODEL,
    PEFT_NAMES,
    adapter_config,
    adapter_tensors,
    tensor_name,
    write_directory,
)
from worker.adapters.weights import parse_weights
from worker.memory.layout import MODULES as WORKER_MODULES
from worker.memory.layout import ModelShape

DEMO = Path(__file__).parents[2] / "examples" / "demo_model"


def canonical(folder: Path, model: BaseModel) -> bytes:
    sink = io.BytesIO()
    canonicalise(folder, model, "", Limits(), sink)
    return sink.getvalue()


def worker_shape(model: BaseModel) -> ModelShape:
    shape = model.shape
    return ModelShape(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
    )


def test_both_sides_have_the_same_modules_and_widths() -> None:
    assert tuple(module.value for module in MODULES) == WORKER_MODULES
    shape = worker_shape(MODEL)
    for index, module in enumerate(MODULES):
        assert MODEL.shape.in_features(module) == shape.in_features(index)
        assert MODEL.shape.out_features(module) == shape.out_features(index)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_worker_reads_ranks_scales_and_weights(dtype: type, tmp_path: Path) -> None:
    ranks = {(layer, module): 1 + (layer + i) % 5 for layer in (0, 2) for i, module in enumerate(MODULES)}
    tensors = adapter_tensors(ranks, dtype=dtype)
    config = adapter_config(
        target_modules=[name.rpartition(".")[2] for name in PEFT_NAMES.values()],
        layers_to_transform=[0, 2],
        rank_pattern={f"layers.{layer}.{PEFT_NAMES[module]}": rank for (layer, module), rank in ranks.items()},
        use_rslora=True,
    )
    read = parse_weights(canonical(write_directory(tmp_path, config, tensors), MODEL), worker_shape(MODEL), "demo")
    for layer in range(MODEL.shape.num_layers):
        for index, module in enumerate(MODULES):
            rank = ranks.get((layer, module), 0)
            assert read.layout.ranks[layer][index] == rank
            if rank:
                assert read.layout.scales[layer][index] == 8 / rank**0.5
                matrices = read.matrices[layer, index]
                assert torch.equal(matrices.a, torch.from_numpy(tensors[tensor_name(layer, module, "A")]))
                assert torch.equal(matrices.b, torch.from_numpy(tensors[tensor_name(layer, module, "B")]))


@pytest.mark.parametrize("name", sorted(path.name for path in (DEMO / "adapters").iterdir() if path.is_dir()))
def test_demo_adapter_is_taken(name: str) -> None:
    model = load_base_model(ModelConfig(path=DEMO / "base", name="demo"))
    folder = DEMO / "adapters" / name
    read = parse_weights(canonical(folder, model), worker_shape(model), "demo")
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    assert len(read.matrices) * 2 == len(tensors)
    ranks = {rank for layer in read.layout.ranks for rank in layer if rank}
    assert ranks <= {config["r"], *config["rank_pattern"].values()}
