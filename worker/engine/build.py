"""Puts an engine together."""

from collections.abc import Callable

from worker.adapters.loader import loader_for
from worker.adapters.residency import Residency
from worker.engine.compilation import compile_steps
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine, Loader
from worker.engine.phases import OnPhase, log_phase, timed
from worker.memory.host_arena import HostArena
from worker.memory.layout import MODULES, AdapterLayout, PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage, page_size_bytes, pages_in_budget
from worker.model.graphs import GraphedDecoder
from worker.model.loader import LoadedModel
from worker.types import HostedAdapter


def unified_pool(num_pages: int, geometry: PageGeometry, max_load_pages: int) -> tuple[PagePool, Residency]:
    """One pool for KV and adapters; at most `max_load_pages` of adapters are copied before one step."""
    pool = PagePool(num_pages)
    return pool, Residency(pool, geometry, max_load_pages)


def build_engine(
    model: LoadedModel,
    arena: HostArena,
    config: EngineConfig,
    *,
    pool_bytes: int,
    pool_of: Callable[[int, PageGeometry, int], tuple[PagePool, Residency]] = unified_pool,
    loader_of: Callable[[HostArena, PageStorage, int], Loader] = loader_for,
    on_phase: OnPhase = log_phase,
) -> Engine:
    """An engine with a page pool of at most `pool_bytes` bytes on the model's device.

    Args:
        model: What it runs.
        arena: Where the adapters of its requests lie; of the model's type and of pages of `config.block_size` tokens.
        config: Its bounds.
        pool_bytes: For KV and adapters together.
        pool_of: Divides so many pages.
        loader_of: Copies adapters from the arena to the storage, of which so many pages before one step.
        on_phase: Told what took how many seconds, on a GPU: "compile", of kernels that are not in Triton's cache, and
            "record", of steps as CUDA graphs, with a first request of each kind.

    Raises:
        PoolTooSmall: the pool would not hold one sequence of `config.context_length` tokens.
    """
    geometry = PageGeometry(model.config.shape, config.block_size)
    decoder = model.decoder
    num_pages = pages_in_budget(pool_bytes, geometry, decoder.dtype, min_tokens=config.context_length)
    if decoder.device.type != "cpu":
        compile_steps(model, config, on_phase)
    storage = PageStorage(geometry, num_pages, decoder.dtype, decoder.device)
    max_load_pages = max(1, config.max_step_load_bytes // page_size_bytes(geometry, decoder.dtype))
    pool, residency = pool_of(num_pages, geometry, max_load_pages)
    engine = Engine(
        GraphedDecoder(decoder, config.max_running) if config.max_graph_rows else decoder,
        storage,
        pool,
        residency,
        loader_of(arena, storage, max_load_pages),
        config,
    )
    if decoder.device.type != "cpu":
        with timed("record", on_phase):
            engine.warm_up(_any_adapter(geometry, arena))
    return engine


def _any_adapter(geometry: PageGeometry, arena: HostArena) -> HostedAdapter | None:
    """An adapter of rank 1 on q, in the arena's first pages whatever they hold; None: the arena is too small for it."""
    ranks, scales = (1, *[0] * (len(MODULES) - 1)), (1.0,) * len(MODULES)
    layout = AdapterLayout(geometry.shape, (ranks,) * geometry.shape.num_layers, (scales,) * geometry.shape.num_layers)
    num_pages = layout.num_pages(geometry)
    return HostedAdapter("warm-up", layout, tuple(range(num_pages))) if num_pages <= arena.num_pages else None
