"""On a GPU, whatever is compiled or recorded is so before the first request, and compiled side by side."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.worker_model.model_directories import write_config
from worker.engine import build
from worker.engine.compilation import compile_steps
from worker.engine.config import EngineConfig
from worker.engine.offline import OfflineEngine
from worker.engine.phases import OnPhase
from worker.memory.layout import MODULES, AdapterLayout
from worker.model.graphs import GraphedDecoder
from worker.model.loader import LoadedModel, LoadFormat, load_model
from worker.types import EngineRequest, HostedAdapter, SamplingParams

CONFIG = EngineConfig(
    context_length=128, block_size=16, max_step_tokens=64, max_running=16, max_graph_rows=64, overlap=True
)
SIZES = {"vocab_size": 300, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}


def engine_of(directory: Path, **sizes: int) -> OfflineEngine:
    sizes = {**SIZES, "head_dim": 32, **sizes}
    write_config(directory, "llama", **sizes, num_key_value_heads=2, max_position_embeddings=128)
    model = load_model(directory, torch.bfloat16, torch.device("cuda"), LoadFormat.DUMMY)
    return OfflineEngine(model, CONFIG, pool_bytes=1 << 25, host_bytes=1 << 25)


def adapters_of(engine: OfflineEngine) -> list[HostedAdapter]:
    """Of several ranks on several modules, in one page and in many, side by side and scattered; of zeros."""
    geometry = engine.engine._residency.geometry
    shape = geometry.shape
    found = []
    for rank, num_modules in ((1, 1), (4, 3), (8, 7), (16, 7), (33, 4), (64, 7)):
        ranks = tuple(rank if module < num_modules else 0 for module in range(len(MODULES)))
        layout = AdapterLayout(shape, (ranks,) * shape.num_layers, ((2.0,) * len(MODULES),) * shape.num_layers)
        hosted = HostedAdapter(f"{rank}-{num_modules}", layout, tuple(range(layout.num_pages(geometry))))
        found += [hosted, replace(hosted, digest=f"{hosted.digest}-scattered", host_pages=hosted.host_pages[::-1])]
    return found


@pytest.mark.gpu
def test_no_request_waits_for_a_compilation_or_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    import triton

    compiled: list[str] = []
    recorded = []
    with engine_of(tmp_path) as engine:
        adapters = adapters_of(engine)
        monkeypatch.setattr(
            triton.knobs.runtime, "jit_post_compile_hook", lambda **event: compiled.append(event["fn"].name)
        )
        record = GraphedDecoder._record
        monkeypatch.setattr(GraphedDecoder, "_record", lambda *args: recorded.append(args) or record(*args))
        sampling = [SamplingParams(temperature=0.0), SamplingParams(seed=1), SamplingParams(top_k=3, top_p=0.9)]
        requests = [
            EngineRequest(str(i), tuple(range(1, 2 + i % 40)), 20, sampling[i % 3], [None, *adapters][i % 13])
            for i in range(60)
        ]
        generations = engine.generate(requests, arrivals_per_step=2)
        stats = engine.engine.step().stats
    assert all(generation.failure is None for generation in generations.values())
    assert stats.num_loads >= len(adapters)
    assert compiled == []
    assert recorded == []


@pytest.mark.gpu
def test_a_start_compiles_side_by_side_all_but_the_copy_of_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    import triton

    caplog.set_level("INFO", "worker.engine")
    compiled: list[str] = []
    side_by_side: list[str] = []

    def noted(model: LoadedModel, config: EngineConfig, on_phase: OnPhase) -> None:
        compile_steps(model, config, on_phase)
        side_by_side[:], compiled[:] = compiled, []

    monkeypatch.setattr(build, "compile_steps", noted)
    monkeypatch.setattr(
        triton.knobs.runtime, "jit_post_compile_hook", lambda **event: compiled.append(event["fn"].name)
    )
    sizes = {"vocab_size": 1300, "hidden_size": 320, "head_dim": 64}  # kernels that no other test has compiled
    sizes["num_hidden_layers"] = 6  # whose tables, one after the other, need not all begin where the second's does
    with engine_of(tmp_path, **sizes):
        assert {"_norm_rows", "_shrink", "_rotate_and_write"} <= set(side_by_side)
        assert set(compiled) <= {"_copy_pages"}
    told = [message.split(" took ")[0] for message in caplog.messages]
    assert told == ["start: compile", "start: record"]
