"""The engine as it is, and the seams at which variants differ."""

from dataclasses import dataclass

from worker.adapters.loader import loader_for
from worker.adapters.residency import Residency
from worker.engine.build import build_engine, unified_pool
from worker.engine.config import EngineConfig
from worker.engine.engine import Engine, Loader
from worker.engine.phases import OnPhase
from worker.memory.host_arena import HostArena
from worker.memory.layout import PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage
from worker.model.config import ModelConfig
from worker.model.decoder import Decoder
from worker.model.loader import LoadedModel
from worker.model.weights import ModelWeights


@dataclass(frozen=True)
class Unified:
    """The engine as workers run it; variants override what they do otherwise.

    Attributes:
        name: What results call it.
        pool_share: The page pool's, of what weights and steps leave of a GPU.
    """

    name: str = ""
    pool_share: float = 0.98

    def configure(self, config: EngineConfig) -> EngineConfig:
        """The engine's bounds, from those of a worker."""
        return config

    def decoder(self, config: ModelConfig, weights: ModelWeights) -> Decoder:
        """The model."""
        return Decoder(config, weights)

    def pools(self, num_pages: int, geometry: PageGeometry, max_load_pages: int) -> tuple[PagePool, Residency]:
        """The pool that sequences take pages from, and the adapters in the GPU's memory."""
        return unified_pool(num_pages, geometry, max_load_pages)

    def loader(self, arena: HostArena, storage: PageStorage, max_step_pages: int) -> Loader:
        """The way from host memory to the pool."""
        return loader_for(arena, storage, max_step_pages)

    def build(
        self,
        model: LoadedModel,
        arena: HostArena,
        config: EngineConfig,
        *,
        pool_bytes: int,
        on_phase: OnPhase,
    ) -> Engine:
        """The engine; arguments as `build_engine`'s."""
        return build_engine(
            model,
            arena,
            config,
            pool_bytes=pool_bytes,
            pool_of=self.pools,
            loader_of=self.loader,
            on_phase=on_phase,
        )
