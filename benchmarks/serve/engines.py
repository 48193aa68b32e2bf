"""An engine in this process, with a setup's dummy model and adapters."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.serve.host import Bringer, Present, host_memory
from benchmarks.serve.options import Bounds, Options
from benchmarks.serve.outcome import Run, Summary
from benchmarks.serve.run import Host, run
from benchmarks.serve.setups import Setup
from benchmarks.serve.variants import Unified
from benchmarks.serve.workload import Item, touched
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.phases import OnPhase, timed
from worker.engine.sizing import free_for_pool
from worker.memory.layout import PageGeometry
from worker.model.config import read_config
from worker.model.dummy import DummyCheckpoint
from worker.model.loader import LoadedModel
from worker.model.weights import expected_shapes, read_weights
from worker.types import HostedAdapter

_CPU_POOL_BYTES = 1 << 28
_WARM_REQUESTS, _WARM_TOKENS = 64, 32  # served before anything is measured; tokens of output each


@dataclass(frozen=True)
class EngineServer:
    """An engine and its adapters.

    Attributes:
        engine: It.
        host: Where requests wait for their adapters.
        adapters: Those that are in host memory for good, by number.
        start: Seconds that parts of its start took.
    """

    engine: Engine
    host: Host
    adapters: Mapping[int, HostedAdapter]
    start: Summary

    def run(self, items: Sequence[Item]) -> Run:
        """Serves a workload."""
        return run(self.engine, items, self.host)


@contextmanager
def engine_server(options: Options, variant: Unified, items: Sequence[Item]) -> Iterator[EngineServer]:
    """An engine with the adapters that `items` use, or may use, and those for `--cold`, warm."""
    adapters = list(range(max(options.adapters))) if options.host_all else touched(items)
    if options.cold:
        others, coming = options.cold.adapters(options.setup)
        adapters += others + coming
    with engine_of(options.setup, options.device, adapters, options.bounds, variant) as server:
        server.run(
            [Item(item.adapter, item.prompt, min(item.num_output, _WARM_TOKENS)) for item in items[:_WARM_REQUESTS]]
        )
        yield server


@contextmanager
def engine_of(
    setup: Setup, device: torch.device, adapters: Sequence[int], bounds: Bounds, variant: Unified | None = None
) -> Iterator[EngineServer]:
    """An engine with these adapters in host memory, or, if that is bounded, with them behind it."""
    variant = variant or Unified()
    start: dict[str, float] = {}

    def note(phase: str, seconds: float) -> None:
        start[f"{phase}_s"] = round(start.get(f"{phase}_s", 0.0) + seconds, 3)

    with timed("weights", note):
        model = dummy_model(setup, device, variant)
    config = variant.configure(engine_config(setup, bounds, device))
    geometry = PageGeometry(setup.shape, config.block_size)
    layouts = {number: setup.layout(number) for number in adapters}
    with host_memory(layouts, geometry, model.decoder.dtype, bounds.host_bytes) as memory:
        with timed("host_memory", note):
            hosted = memory.fill() if bounds.host_bytes is None else {}
            memory.back()
        pool_bytes = bounds.pool_bytes or _default_pool_bytes(model, config, variant.pool_share, note)
        engine = variant.build(model, memory.arena, config, pool_bytes=pool_bytes, on_phase=note)
        if bounds.host_bytes is None:
            yield EngineServer(engine, Present(hosted), hosted, start)
        else:
            with closing(Bringer(memory)) as bringer:
                yield EngineServer(engine, bringer, {}, start)


def dummy_model(setup: Setup, device: torch.device, variant: Unified) -> LoadedModel:
    """The setup's model with dummy weights."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with tempfile.TemporaryDirectory() as directory:
        setup.write_config(Path(directory))
        config = read_config(Path(directory))
    weights = read_weights(DummyCheckpoint(expected_shapes(config), dtype, device), config, dtype, device)
    return LoadedModel(config, variant.decoder(config, weights))


def engine_config(setup: Setup, bounds: Bounds, device: torch.device) -> EngineConfig:
    """As a worker has it on such a device."""
    on_cpu = device.type == "cpu"
    return EngineConfig(
        context_length=bounds.context_length,
        max_step_tokens=bounds.max_step_tokens,
        max_running=bounds.max_running,
        max_waiting=1 << 20,  # every workload's requests
        max_rank=0 if on_cpu else max(setup.ranks),
        max_graph_rows=0 if on_cpu else bounds.max_step_tokens,
        overlap=not on_cpu,
    )


def _default_pool_bytes(model: LoadedModel, config: EngineConfig, share: float, on_phase: OnPhase) -> int:
    on_cpu = model.decoder.device.type == "cpu"
    return _CPU_POOL_BYTES if on_cpu else int(free_for_pool(model, config, on_phase) * share)
