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
    logits: Tensor  # written by every replay
    directory: LoraDirectory | None


class GraphedDecoder:
    """A decoder that records what it does with a batch of fixed size, and from then on replays it.

    A recording reads the batch's tensors where they lie, so it serves whatever sequences and adapters are in them. Of
    each size there is one for the base model alone and one for adapters, which names their directory.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._recordings: dict[tuple[BatchSize, bool], _Recording] = {}
        self._memory = torch.cuda.graph_pool_handle()  # they share it, as they never run at the same time

    def forward(self, batch: ForwardBatch, pages: Tensor) -> Tensor:
        """As `Decoder.forward`. Logits of a batch of fixed size are overwritten by the next of such a batch."""
        if batch.size is None:
            return self._decoder.forward(batch, pages)
        directory = None if batch.lora is None else batch.lora.directory
        key = (batch.size, directory is not None)
        recording = self._recordings.get(key)
        if recording is None or recording.directory is not directory:
            logits = self._decoder.forward(batch, pages)  # compiles and sets up what a recording must not
            self._recordings[key] = self._record(batch, pages, directory)
            return logits
        recording.graph.replay()
        return recording.logits

    def _record(self, batch: ForwardBatch, pages: Tensor, directory: LoraDirectory | None) -> _Recording:
        graph = torch.cuda.CUDAGraph()
        # What ops derive from a batch's tables has to be derived again by every replay.
        fresh = replace(
            batch,
            attention=replace(batch.attention, derived={}),
            lora=None if batch.lora is None else replace(batch.lora),
        )
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            logits = self._decoder.forward(fresh, pages)
        return _Recording(graph, logits, directory)
