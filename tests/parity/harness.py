"""Runs a decoder over hand-made pages and batches: no pool, scheduler or engine, so that only the model is judged."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.attention import AttentionBatch
from tests.kernels.pages import lora_batch, write_adapter
from tests.parity.zoo import ZooAdapter
from worker.memory.layout import PageGeometry
from worker.model.batch import ForwardBatch
from worker.model.loader import LoadedModel


@dataclass(eq=False)
class Run:
    """A sequence: its tokens so far, and the logits of those that were computed."""

    token_ids: list[int]
    adapter: str | None
    pages: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    @property
    def num_computed(self) -> int:
        return len(self.logits)

    def take_greedy(self) -> None:
        """Appends the most likely token after the last one, which has to be computed."""
        assert self.num_computed == len(self.token_ids)
        self.token_ids.append(int(self.logits[-1].argmax()))


class Harness:
    """Pages in which everything that nobody wrote is NaN, with all adapters in shuffled places."""

    def __init__(
        self, model: LoadedModel, adapters: Mapping[str, ZooAdapter], *, block_size: int = 4, num_pages: int = 600
    ) -> None:
        self._model = model
        self._adapters = adapters
        self._geometry = PageGeometry(model.config.shape, block_size)
        self._free = random.Random(7).sample(range(num_pages), num_pages)
        size = (model.config.shape.num_layers, num_pages, self._geometry.page_elements)
        self.pages = torch.full(size, torch.nan, dtype=model.decoder.dtype)
        self._held = {
            name: [self._free.pop() for _ in range(adapter.layout.num_pages(self._geometry))]
            for name, adapter in adapters.items()
        }
        for name, adapter in adapters.items():
            write_adapter(self.pages, adapter.layout, adapter.matrices, self._held[name])
        self.pages = self.pages.to(model.decoder.device)

    def step(self, work: Iterable[tuple[Run, int]]) -> None:
        """Computes the next `count` tokens of each run in one batch, and adds the logits of each to it."""
        rows = sorted(work, key=lambda item: item[0].adapter or "")
        logits = self._model.decoder.forward(self.batch(rows), self.pages).cpu()
        for (run, _), part in zip(rows, logits.split([count for _, count in rows]), strict=True):
            run.logits.extend(part)

    def batch(self, rows: list[tuple[Run, int]]) -> ForwardBatch:
        """The tensors of a step that wants all logits; `rows` have the base model first, then each adapter's."""
        block_size = self._geometry.block_size
        for run, count in rows:
            assert 0 < count <= len(run.token_ids) - run.num_computed
            while len(run.pages) * block_size < run.num_computed + count:
                run.pages.append(self._free.pop())
        spans = [(run, range(run.num_computed, run.num_computed + count)) for run, count in rows]
        slots = [run.pages[p // block_size] * block_size + p % block_size for run, span in spans for p in span]
        width = max(len(run.pages) for run, _ in rows)
        starts = [0]
        for _, count in rows:
            starts.append(starts[-1] + count)
        live = sorted({run.adapter for run, _ in rows if run.adapter is not None})
        counts = [sum(count for run, count in rows if run.adapter == adapter) for adapter in [None, *live]]
        row_start = [sum(counts[: i + 1]) for i in range(len(counts))]

        def tensor(values: list[int] | list[list[int]], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self._model.decoder.device)

        return ForwardBatch(
            token_ids=tensor([run.token_ids[p] for run, span in spans for p in span], torch.int64),
            positions=tensor([p for _, span in spans for p in span], torch.int64),
            attention=AttentionBatch(
                query_start=tensor(starts, torch.int32),
                context_lens=tensor([span.stop for _, span in spans], torch.int32),
                block_table=tensor([[*run.pages, *[-1] * (width - len(run.pages))] for run, _ in rows], torch.int32),
                kv_slots=tensor(slots, torch.int64),
            ),
            lora=lora_batch(
                [self._adapters[name].layout for name in live],
                [self._held[name] for name in live],
                row_start,
                self._model.decoder.device,
            )
            if live
            else None,
            logit_rows=tensor(list(range(starts[-1])), torch.int64),
        )
