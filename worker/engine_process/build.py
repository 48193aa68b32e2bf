"""Builds the engine, in the engine process: model, pool, adapters' way into it, engine."""

from dataclasses import dataclass
from pathlib import Path

import torch

from worker.config import EngineSection
from worker.engine.build import build_engine
from worker.engine.config import EngineConfig
from worker.engine.sizing import free_for_pool
from worker.engine_process.messages import BuiltEngine, EngineFacts
from worker.memory.arena_file import ArenaFile
from worker.memory.host_arena import HostArena
from worker.memory.layout import PageGeometry
from worker.memory.storage import page_size_bytes, pages_in_budget
from worker.model.loader import LoadedModel, LoadFormat, load_model

_CPU_POOL_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What the engine process is told; `worker.config` says what each means. `dtype` is a torch type's name."""

    model_path: Path
    load_format: str
    dtype: str
    device: str
    engine: EngineSection
    pool_bytes: int
    pool_memory_share: float
    num_threads: int
    arena_descriptor: int
    num_arena_pages: int


def build_from_spec(spec: EngineSpec) -> BuiltEngine:
    """Loads the model and makes the engine. Raises WorkerError if model or memory do not allow it."""
    torch.set_num_threads(spec.num_threads)
    dtype, device = getattr(torch, spec.dtype), torch.device(spec.device)
    if device.type == "cuda":
        # Streams, events, graphs and kernels are of the current one: without an index that is the first.
        torch.cuda.set_device(device.index or 0)
    model = load_model(spec.model_path, dtype, device, LoadFormat(spec.load_format))
    config = spec.engine.build(model.config.context_length, device.type)
    geometry = PageGeometry(model.config.shape, config.block_size)
    pool_bytes = spec.pool_bytes or _default_pool_bytes(model, config, spec.pool_memory_share)
    arena = HostArena.open(ArenaFile.inherited(spec.arena_descriptor), spec.num_arena_pages, geometry, dtype)
    engine = build_engine(model, arena, config, pool_bytes=pool_bytes)
    facts = EngineFacts(
        context_length=config.context_length,
        max_running=config.max_running,
        vocab_size=model.config.vocab_size,
        eos_token_ids=frozenset(model.config.eos_token_ids),
        total_pages=pages_in_budget(pool_bytes, geometry, dtype, min_tokens=config.context_length),
        page_size_bytes=page_size_bytes(geometry, dtype),
        block_size=config.block_size,
    )
    return BuiltEngine(engine, facts)


def _default_pool_bytes(model: LoadedModel, config: EngineConfig, share: float) -> int:
    """A share of what weights and steps leave of a GPU; a fixed size on a CPU."""
    if model.decoder.device.type != "cuda":
        return _CPU_POOL_BYTES
    return int(free_for_pool(model, config) * share)
