"""An engine with a setup's dummy model and adapters."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.serve.setups import Setup
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.engine.offline import OfflineEngine
from worker.memory.layout import PageGeometry
from worker.memory.storage import page_size_bytes
from worker.model.loader import LoadFormat, load_model
from worker.types import HostedAdapter

_CONTEXT = 1024  # the longest request of the workloads
_POOL_SHARE = 0.88  # of what the weights leave; the rest is for workspaces and graphs
_CPU_POOL_BYTES = 1 << 28


@dataclass(frozen=True)
class Bounds:
    """How much an engine takes at once."""

    max_running: int = 512
    max_step_tokens: int = 1024
    max_waiting: int = 1 << 20  # every workload's requests


@contextmanager
def engine_of(
    setup: Setup, device: torch.device, adapters: Sequence[int], bounds: Bounds
) -> Iterator[tuple[Engine, dict[int, HostedAdapter]]]:
    """The engine, and its adapters by number, all in host memory."""
    with tempfile.TemporaryDirectory() as directory:
        setup.write_config(Path(directory))
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        model = load_model(Path(directory), dtype, device, LoadFormat.DUMMY)
    config = EngineConfig(
        context_length=_CONTEXT,
        max_step_tokens=bounds.max_step_tokens,
        max_running=bounds.max_running,
        max_waiting=bounds.max_waiting,
        max_graph_rows=0 if device.type == "cpu" else bounds.max_step_tokens,
        overlap=device.type != "cpu",
    )
    geometry = PageGeometry(setup.shape, config.block_size)
    layouts = {number: setup.layout(number) for number in adapters}
    num_pages = 1 + sum(layout.num_pages(geometry) for layout in layouts.values())
    with OfflineEngine(
        model,
        config,
        pool_bytes=_CPU_POOL_BYTES if device.type == "cpu" else int(torch.cuda.mem_get_info(device)[0] * _POOL_SHARE),
        host_bytes=num_pages * page_size_bytes(geometry, dtype),
    ) as offline:
        hosted = {number: offline.host_dummy(f"dummy-{number}", layout) for number, layout in layouts.items()}
        yield offline.engine, hosted
