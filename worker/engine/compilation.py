"""Compiles what steps will launch, side by side."""

import torch

from kernels.launch import compiling
from worker.adapters.residency import Residency
from worker.engine.batch import BatchBuilder
from worker.engine.config import EngineConfig
from worker.engine.phases import OnPhase, timed
from worker.engine.sampler import WAYS_TO_SAMPLE, Sampler
from worker.engine.sequence import Sequence
from worker.memory.layout import PageGeometry
from worker.memory.pool import PagePool
from worker.memory.storage import PageStorage
from worker.model.loader import LoadedModel
from worker.types import EngineRequest


@torch.inference_mode()
def compile_steps(model: LoadedModel, config: EngineConfig, on_phase: OnPhase) -> None:
    """Has all kernels compiled that steps of fixed size launch on the model's GPU, most of a worker's first start.

    Needs as much memory as the largest step, and no pool. What is there already costs little to ask for again.
    """
    decoder, geometry = model.decoder.shortened(), PageGeometry(model.config.shape, config.block_size)
    pages = PageStorage(geometry, 1, decoder.dtype, decoder.device).pages
    builder = BatchBuilder(config, Residency(PagePool(1), geometry), decoder.device)
    sampler = Sampler(decoder.device)
    with timed("compile", on_phase), compiling(decoder.device):
        for batch in builder.nobodys():
            decoder.forward(batch, pages)
        for params in WAYS_TO_SAMPLE:
            request = EngineRequest("", (0,), 1, params)
            sampler.sample(decoder.new_logits(1), [Sequence(request, 0, config.context_length)])
