"""What a start compiles is all that steps launch: seen on a CPU, by what kernels are given, without launching any."""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kernels.activation.kernel
import kernels.attention.kernel
import kernels.lora.kernel
import kernels.norm.kernel
import kernels.rope.kernel
from kernels.chain import chained, resident
from kernels.launch import launch
from tests.unit.worker_engine.test_warm_up import CONFIG, SIZES
from tests.unit.worker_model.model_directories import write_config
from worker.adapters.residency import Residency
from worker.engine import compilation
from worker.engine.batch import BatchBuilder
from worker.memory.layout import PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage
from worker.model import decoder, weights
from worker.model.loader import LoadedModel, LoadFormat, load_model

ON_GPU = {
    kernels.activation.kernel: ("linear_silu_mul", "silu_mul"),
    kernels.attention.kernel: ("paged_attention",),
    kernels.lora.kernel: ("linear_and_shrink",),
    kernels.norm.kernel: ("add_rms_norm", "gather_rms_norm", "rms_norm"),
    kernels.rope.kernel: ("rotate_and_write",),
}
CPU = torch.device("cpu")

Launch = tuple[Any, ...]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Launch]]:
    """What Triton compiles for the ops of a step: of each launch the kernel, and what it is compiled for."""
    seen: set[Launch] = set()

    def noted(kernel: Any, grid: tuple[int, ...], /, *arguments: Any, **options: Any) -> None:
        given = {name: _kind(value) if isinstance(value, torch.Tensor) else value for name, value in options.items()}
        seen.add((kernel.fn.__name__, *map(_kind, arguments), *given.items()))

    _everywhere(monkeypatch, launch, noted)
    _everywhere(monkeypatch, chained, lambda device: {"CHAINED": True})
    resident.cache_clear()
    for module, names in ON_GPU.items():
        for name in names:
            monkeypatch.setattr(weights if hasattr(weights, name) else decoder, name, getattr(module, name))
    monkeypatch.setattr(compilation, "compiling", lambda device: nullcontext())
    yield seen
    resident.cache_clear()  # what it was told here is true nowhere else


def _everywhere(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], other: Callable[..., Any]) -> None:
    """Puts `other` in the function's place wherever a module of `kernels` names it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("kernels.") and getattr(module, function.__name__, None) is function:
            monkeypatch.setattr(module, function.__name__, other)


def _kind(argument: object) -> object:
    """What an argument is to the compiler: whether tensors begin at 16 bytes. Numbers are those of all layers."""
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return type(argument)


def model_of(directory: Path, **changes: Any) -> LoadedModel:
    write_config(directory, "llama", **{**SIZES, "head_dim": 32, **changes}, num_key_value_heads=2)
    return load_model(directory, torch.float32, CPU, LoadFormat.DUMMY)


@pytest.mark.parametrize("max_rank", [0, 16])
def test_all_layers_launch_what_the_few_that_are_compiled_do(
    max_rank: int, launches: set[Launch], tmp_path: Path
) -> None:
    model = model_of(tmp_path, num_hidden_layers=6, max_position_embeddings=128)
    config = replace(CONFIG, max_rank=max_rank, overlap=False, max_step_tokens=384, max_graph_rows=384)
    compilation.compile_steps(model, config, lambda phase, seconds: None)
    compiled = set(launches)
    launches.clear()
    geometry = PageGeometry(model.config.shape, config.block_size)
    pages = PageStorage(geometry, 5, torch.float32, CPU).pages
    narrow = 0
    for batch in BatchBuilder(config, Residency(PagePool(5), geometry), CPU).nobodys():
        narrow += batch.is_narrow
        model.decoder.forward(batch, pages)
    assert narrow == 2 * 3, "of 320 and 384 rows"
    assert {"_norm_rows", "_shrink", "_rotate_and_write", "_silu_mul", "_plan"} <= {kernel for kernel, *_ in launches}
    assert launches <= compiled
