"""What a worker's configuration says becomes an engine that serves."""

import os
from pathlib import Path

import pytest
import torch

from tests.unit.worker_engine.test_warm_up import SIZES
from tests.unit.worker_model.model_directories import write_config
from worker.config import EngineSection
from worker.engine_process.build import EngineSpec, build_from_spec
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import ModelShape, PageGeometry
from worker.types import EngineRequest, SamplingParams

SHAPE = ModelShape(2, hidden_size=128, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=256)
NUM_PAGES = 8


@pytest.mark.parametrize("word", ["cpu", *(pytest.param(word, marks=pytest.mark.gpu) for word in ("cuda", "cuda:0"))])
def test_a_device_is_named_with_and_without_its_number(word: str, tmp_path: Path) -> None:
    if word != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    write_config(tmp_path, "llama", **SIZES, num_key_value_heads=2, head_dim=32, max_position_embeddings=128)
    dtype = torch.float32 if word == "cpu" else torch.bfloat16
    arena = ArenaFile.create()
    HostArena.create(arena, NUM_PAGES, PageGeometry(SHAPE, 16), dtype)
    spec = EngineSpec(
        model_path=tmp_path,
        load_format="dummy",
        dtype=str(dtype).removeprefix("torch."),
        device=word,
        engine=EngineSection(max_running=4, max_step_tokens=16),
        pool_bytes=1 << 23,
        pool_memory_share=0.9,
        num_threads=1,
        arena_descriptor=os.dup(arena.descriptor),
        num_arena_pages=NUM_PAGES,
    )
    built = build_from_spec(spec)
    built.engine.add(EngineRequest("one", (1, 2, 3), 2, SamplingParams(temperature=0.0)))
    tokens: list[int] = []
    while built.engine.has_work:
        tokens += [token for output in built.engine.step().outputs for token in output.token_ids]
    assert len(tokens) == 2
    assert all(0 <= token < built.facts.vocab_size for token in tokens)
