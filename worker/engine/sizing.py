"""How much of a GPU's memory the page pool may have."""

from dataclasses import replace

import torch

from worker.adapters.residency import Residency
from worker.engine.batch import BatchBuilder
from worker.engine.compilation import compile_steps
from worker.engine.config import EngineConfig
from worker.engine.lora_tables import TARGETS
from worker.engine.phases import OnPhase, log_phase
from worker.memory.layout import PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage
from worker.model.loader import LoadedModel

# What the driver holds for a recorded step, and for kernels and libraries. On an H200 with a Llama of 32 layers 68
# recordings, kernels and libraries took 0.3 GiB that torch does not count, and all beside the pool 0.6 to 0.7 GiB.
_RECORDING_BYTES = 3 * 1024 * 1024
_LIBRARY_BYTES = 512 * 1024 * 1024
_SAMPLING_BYTES = 4 * 4  # for each logit: penalised rows are counted and copied, log-probabilities are two more copies


def free_for_pool(model: LoadedModel, config: EngineConfig, on_phase: OnPhase = log_phase) -> int:
    """Bytes of the model's GPU that neither the weights, which are there, nor the steps need.

    A step's need is measured: the largest batch is computed without and with adapters, its rows being nobody's. Kernels
    are compiled before that, of which `on_phase` is told as by `build_engine`.
    """
    device = model.decoder.device
    step_bytes = _measured(model, config, on_phase)
    num_recordings = len(config.decode_sizes + config.chunk_sizes) * (1 + len(TARGETS))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    # A step that is recorded was first computed, in other memory. Copies for this step and the next have room, too.
    needed = 2 * step_bytes + 2 * config.max_step_load_bytes
    needed += config.max_running * model.config.vocab_size * _SAMPLING_BYTES
    return max(0, free - needed - num_recordings * _RECORDING_BYTES - _LIBRARY_BYTES)


def _measured(model: LoadedModel, config: EngineConfig, on_phase: OnPhase) -> int:
    """Bytes that the largest step takes beside weights and pool, its batch included."""
    decoder, geometry = model.decoder, PageGeometry(model.config.shape, config.block_size)
    config = replace(config, max_graph_rows=config.max_step_tokens)  # so that the largest step is among the fixed sizes
    compile_steps(model, config, on_phase)
    pages = PageStorage(geometry, 1, decoder.dtype, decoder.device).pages
    torch.cuda.reset_peak_memory_stats(decoder.device)
    before = torch.cuda.memory_allocated(decoder.device)
    builder = BatchBuilder(config, Residency(PagePool(1), geometry), decoder.device)
    logits = decoder.new_logits(config.max_running)
    for _, batch in zip(range(2), builder.nobodys(), strict=False):
        decoder.forward(batch, pages, logits[: batch.logit_rows.shape[0]])
    return torch.cuda.max_memory_allocated(decoder.device) - before
