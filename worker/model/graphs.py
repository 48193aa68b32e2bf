"""Steps as CUDA graphs: one launch in the place of hundreds."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.lora import LoraDirectory
from worker.model.batch import ForwardBatch
from worker.model.decoder import Decoder
from worker.types import BatchSize


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    directory: LoraDirectory | None


class GraphedDecoder:
    """A decoder that records what it does with a batch of fixed size, and from then on replays it.

    A recording reads the batch's tensors where they lie, so it serves whatever sequences and adapters are in them. Of
    each size there is one for the base model alone, and one for each set of modules that adapters may target, which
    names their directory.
    """

    def __init__(self, decoder: Decoder, max_seqs: int) -> None:
        """`max_seqs` is that of the largest batch of fixed size."""
        self._decoder = decoder
        self._logits = decoder.new_logits(max_seqs)
        self._recordings: dict[tuple[BatchSize, frozenset[int] | None], _Recording] = {}
        self._memory = torch.cuda.graph_pool_handle()  # they share it, as they never run at the same time

    def forward(self, batch: ForwardBatch, pages: Tensor) -> Tensor:
        """As `Decoder.forward`. Batches of fixed size have their logits in one place: the next one overwrites them."""
        if batch.size is None:
            return self._decoder.forward(batch, pages)
        lora = batch.lora
        directory, modules = (None, None) if lora is None else (lora.directory, lora.modules)
        key = (batch.size, modules)
        recording = self._recordings.get(key)
        if recording is None or recording.directory is not directory:
            # First without recording: this compiles and sets up what a recording must not.
            logits = self._decoder.forward(batch, pages, self._logits[: batch.size.num_seqs])
            self._recordings[key] = self._record(batch, batch.size, pages, directory)
            return logits
        recording.graph.replay()
        return self._logits[: batch.size.num_seqs]

    def _record(
        self, batch: ForwardBatch, size: BatchSize, pages: Tensor, directory: LoraDirectory | None
    ) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        # What ops derive from a batch's tables has to be derived again by every replay.
        fresh = replace(
            batch,
            attention=replace(batch.attention, derived={}),
            lora=None if batch.lora is None else replace(batch.lora),
            logit_lora=None if batch.logit_lora is None else replace(batch.logit_lora),
        )
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            self._decoder.forward(fresh, pages, self._logits[: size.num_seqs])
        return _Recording(graph, directory)
