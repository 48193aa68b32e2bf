"""Weights of one file and of shards; what is damaged, missing or of the wrong shape is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.unit.worker_model.model_directories import write_config, write_index, write_shards, write_weights
from worker.model.checkpoint import Checkpoint
from worker.model.config import read_config
from worker.model.errors import ModelNotFound, ModelUnsupported, ModelWeightsInvalid
from worker.model.loader import LoadFormat, load_model
from worker.model.weights import ModelWeights, read_weights

CPU = torch.device("cpu")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_config(tmp_path, "qwen3", head_dim=4, attention_bias=True)


def read(directory: Path, dtype: torch.dtype = torch.float32) -> ModelWeights:
    return read_weights(Checkpoint(directory), read_config(directory), dtype, CPU)


def test_one_file_and_shards_are_the_same(directory: Path) -> None:
    tensors = write_weights(directory)
    single = read(directory)
    write_shards(directory, tensors)
    sharded = read(directory)
    assert torch.equal(single.output, sharded.output)
    for one, two in zip(single.layers, sharded.layers, strict=True):
        assert torch.equal(one.qkv.weight, two.qkv.weight)
        assert torch.equal(one.gate_up.weight, two.gate_up.weight)


def test_fusing(directory: Path) -> None:
    tensors = write_weights(directory)
    layer = read(directory, torch.bfloat16).layers[1]
    prefix = "model.layers.1.self_attn"
    expected = torch.cat([tensors[f"{prefix}.{name}_proj.weight"] for name in "qkv"])
    assert torch.equal(layer.qkv.weight, expected.bfloat16())
    assert layer.qkv.bias is not None
    assert torch.equal(layer.qkv.bias[-8:], tensors[f"{prefix}.v_proj.bias"].bfloat16())
    assert layer.qk_norm is not None
    assert torch.equal(layer.qk_norm[4], tensors[f"{prefix}.k_norm.weight"].bfloat16())


def test_tied_embeddings(tmp_path: Path) -> None:
    write_config(tmp_path, tie_word_embeddings=True)
    tensors = write_weights(tmp_path)
    weights = read(tmp_path)
    assert weights.output is weights.embedding
    save_file({**tensors, "lm_head.weight": weights.embedding.clone()}, tmp_path / "model.safetensors")
    assert torch.equal(read(tmp_path).output, weights.embedding)
    save_file({**tensors, "lm_head.weight": weights.embedding + 1}, tmp_path / "model.safetensors")
    with pytest.raises(ModelWeightsInvalid, match="tie_word_embeddings"):
        read(tmp_path)


def test_frequencies_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    tensors = write_weights(write_config(tmp_path))
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    save_file({**tensors, **extra}, tmp_path / "model.safetensors")
    assert load_model(tmp_path, torch.float32, CPU).config.family == "llama"


def test_wrong_tensors_are_named(directory: Path) -> None:
    tensors = write_weights(directory)
    missing = tensors.pop("model.layers.0.mlp.up_proj.weight")
    tensors["model.layers.0.mlp.up.weight"] = missing
    tensors["model.norm.weight"] = torch.ones(15)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ModelWeightsInvalid) as caught:
        read(directory)
    assert caught.value.message.split(": ", 1)[1] == (
        "missing model.layers.0.mlp.up_proj.weight; unexpected model.layers.0.mlp.up.weight; "
        "wrongly shaped model.norm.weight [15] instead of [16]"
    )


def test_a_long_list_is_cut(directory: Path) -> None:
    write_weights(directory)
    save_file({"model.norm.weight": torch.ones(16)}, directory / "model.safetensors")
    with pytest.raises(ModelWeightsInvalid, match=r"and \d+ more"):
        read(directory)


def test_no_weights_and_pickled_weights(directory: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"has no model\.safetensors$"):
        read(directory)
    (directory / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelNotFound, match=r"pytorch_model\.bin is not safetensors"):
        read(directory)


@pytest.mark.parametrize("kept", [0, 5, 100, -4])
def test_a_truncated_file(kept: int, directory: Path) -> None:
    write_weights(directory)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelWeightsInvalid, match="is damaged"):
        read(directory)


def test_integers_are_no_weights(directory: Path) -> None:
    tensors = write_weights(directory)
    tensors["model.norm.weight"] = torch.ones(16, dtype=torch.int8)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(ModelUnsupported, match=r"model\.norm\.weight \(I8\)"):
        read(directory)


def test_an_index_that_does_not_fit(directory: Path) -> None:
    tensors = write_weights(directory)
    weight_map = write_shards(directory, tensors)
    first = min(weight_map)

    write_index(directory, {**weight_map, "stray": weight_map[first]})
    with pytest.raises(ModelWeightsInvalid, match="in no file: stray"):
        read(directory)
    write_index(directory, {**weight_map, first: "../model.safetensors"})
    with pytest.raises(ModelWeightsInvalid, match="not a file of this directory"):
        read(directory)
    for content in ([1], {}, {first: 3}):
        write_index(directory, content)
        with pytest.raises(ModelWeightsInvalid):
            read(directory)
    (directory / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelWeightsInvalid, match="cannot be read"):
        read(directory)
    write_index(directory, weight_map)
    (directory / weight_map[first]).unlink()
    with pytest.raises(ModelNotFound, match="has no model-0000"):
        read(directory)


def test_a_tensor_in_two_shards(directory: Path) -> None:
    tensors = write_weights(directory)
    weight_map = write_shards(directory, tensors)
    save_file({"model.norm.weight": torch.ones(16)}, directory / "extra.safetensors")
    write_index(directory, {**weight_map, "model.norm.weight": "extra.safetensors"})
    with pytest.raises(ModelWeightsInvalid, match=r"another file has too: model\.norm\.weight"):
        read(directory)


def test_dummy_weights_need_no_file_and_are_the_same_every_time(directory: Path) -> None:
    first, second = (load_model(directory, torch.float32, CPU, LoadFormat.DUMMY).decoder._weights for _ in range(2))
    assert torch.equal(first.layers[0].qkv.weight, second.layers[0].qkv.weight)
    assert not torch.equal(first.layers[0].qkv.weight, first.layers[1].qkv.weight)
    assert torch.equal(first.norm, torch.ones_like(first.norm))
    assert 0.01 < float(first.embedding.std()) < 0.03
