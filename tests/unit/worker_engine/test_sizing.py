"""The pool that a worker sizes by itself leaves room for all that comes after it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.worker_engine.test_warm_up import CONFIG, SIZES
from tests.unit.worker_model.model_directories import write_config
from worker.engine.offline import OfflineEngine
from worker.engine.sizing import free_for_pool
from worker.model.loader import LoadFormat, load_model
from worker.types import EngineRequest, SamplingParams


@pytest.mark.gpu
def test_an_engine_fits_beside_its_pool(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    free, _ = torch.cuda.mem_get_info()
    sizes = {**SIZES, "vocab_size": 128_000}
    write_config(tmp_path, "llama", **sizes, num_key_value_heads=2, head_dim=32, max_position_embeddings=2048)
    model = load_model(tmp_path, torch.bfloat16, torch.device("cuda"), LoadFormat.DUMMY)
    config = replace(CONFIG, context_length=2048, max_running=512, max_step_tokens=1024, max_graph_rows=128)
    pool_bytes = free_for_pool(model, config)
    assert pool_bytes > 0.9 * free, "little is left to others, and the model is tiny"
    requests = [EngineRequest(str(i), (i, 5, 6), 8, SamplingParams(seed=i, top_p=0.9)) for i in range(600)]
    with OfflineEngine(model, config, pool_bytes=pool_bytes, host_bytes=1 << 20) as engine:
        generations = engine.generate(requests)
    assert all(len(generation.token_ids) == 8 for generation in generations.values())
