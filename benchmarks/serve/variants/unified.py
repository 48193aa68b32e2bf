"""The engine as it is, and the seams at which variants differ."""

from dataclasses import dataclass

from worker.adapters.loader import loader_for
from worker.adapters.residency import Residency
from worker.engine.build import build_engine
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine, Loader
from worker.memory.host_arena import HostArena
from worker.memory.layout import PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage, page_size_bytes, pages_in_budget
from worker.model.config import ModelConfig
from worker.model.decoder import Decoder
from worker.model.graphs import GraphedDecoder
from worker.model.loader import LoadedModel
from worker.model.weights import ModelWeights


@dataclass(frozen=True)
class Unified:
    """The engine as workers run it.

    Attributes:
        name: What results call it.
        pool_share: The page pool's, of what the weights leave of a GPU; the rest is for workspaces and graphs.
    """

    name: str = ""
    pool_share: float = 0.88

    def configure(self, config: EngineConfig) -> EngineConfig:
        """The engine's bounds, from those of a worker."""
        return config

    def decoder(self, config: ModelConfig, weights: ModelWeights) -> Decoder:
        """The model."""
        return Decoder(config, weights)

    def build(self, model: LoadedModel, arena: HostArena, config: EngineConfig, *, pool_bytes: int) -> Engine:
        """The engine; arguments as `build_engine`'s."""
        return build_engine(model, arena, config, pool_bytes=pool_bytes)


@dataclass(frozen=True)
class Altered(Unified):
    """An engine put together from other pieces: what `build_engine` makes, unless a method says otherwise."""

    def pools(self, num_pages: int, geometry: PageGeometry, max_load_pages: int) -> tuple[PagePool, Residency]:
        """The pool that sequences take pages from, and the adapters in the GPU's memory."""
        pool = PagePool(num_pages)
        return pool, Residency(pool, geometry, max_load_pages)

    def loader(self, arena: HostArena, storage: PageStorage) -> Loader:
        """The way from host memory to the pool."""
        return loader_for(arena, storage)

    def build(self, model: LoadedModel, arena: HostArena, config: EngineConfig, *, pool_bytes: int) -> Engine:
        """As `Unified.build`."""
        geometry = PageGeometry(model.config.shape, config.block_size)
        decoder = model.decoder
        num_pages = pages_in_budget(pool_bytes, geometry, decoder.dtype, min_tokens=config.context_length)
        storage = PageStorage(geometry, num_pages, decoder.dtype, decoder.device)
        max_load_pages = max(1, config.max_step_load_bytes // page_size_bytes(geometry, decoder.dtype))
        pool, residency = self.pools(num_pages, geometry, max_load_pages)
        graphed = GraphedDecoder(decoder, config.max_running) if config.max_graph_rows else decoder
        engine = Engine(graphed, storage, pool, residency, self.loader(arena, storage), config)
        if config.max_graph_rows:
            engine.warm_up()
        return engine
