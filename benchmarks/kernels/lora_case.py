"""One point of the LoRA grid: adapters in pages, the rows that use them, and the right result."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, cycle, islice
from typing import Literal

import torch
from torch import Tensor

from benchmarks.kernels.floors import Work, adapter_work, lora_work
from benchmarks.kernels.popularity import Popularity, rows_per_adapter
from benchmarks.kernels.shapes import MODELS, Model
from kernels.lora import LoraBatch, LoraDirectory
from worker.memory.layout import MODULES, AdapterLayout

DTYPE = torch.bfloat16
# A graph's calls touch this many bytes between two uses of one layer, or as many layers as a case may have: more than
# twice an H200's 60 MB of L2.
ROTATION_BYTES = 160 << 20
MAX_LAYERS = 256
SCALES = (0.25, 0.5, 1.0)  # powers of two, so that a peer that folds them into B rounds nothing


@dataclass(frozen=True)
class LoraPoint:
    """What is measured: a batch over adapters of one model.

    Attributes:
        model: a name in MODELS.
        ranks: of the adapters, in turn.
        phase: decode if each row is a sequence's, prefill if they are tokens of prompts, mixed if there are both.
        popularity: how rows spread over adapters.
        num_rows: rows of the batch.
        num_adapters: adapters that may be live, but for those of `prompts`.
        prompts: of a mixed phase, how many of the rows are of each prompt's chunk, which has an adapter of its own.
    """

    model: str
    ranks: tuple[int, ...]
    phase: Literal["decode", "prefill", "mixed"]
    popularity: Popularity
    num_rows: int
    num_adapters: int
    prompts: tuple[int, ...] = ()

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Rows of each live adapter: those that no row uses are not live."""
        counts = rows_per_adapter(self.popularity, self.num_rows - sum(self.prompts), self.num_adapters)
        return tuple(count for count in (*counts, *self.prompts) if count)

    @cached_property
    def live_ranks(self) -> tuple[int, ...]:
        """Rank of each live adapter."""
        return tuple(islice(cycle(self.ranks), len(self.rows)))

    @property
    def work(self) -> Work:
        """One layer's."""
        return lora_work(MODELS[self.model], self.live_ranks, self.rows)

    @property
    def adapter_work(self) -> Work:
        """Of that what is the adapters': where a layer's rows are read and written anyway, it is all that is added."""
        return adapter_work(MODELS[self.model], self.live_ranks, self.rows)

    @property
    def name(self) -> str:
        """For people."""
        ranks = f"r{self.ranks[0]}" if len(self.ranks) == 1 else "mixed ranks"
        prompts = f", prompts of {' + '.join(map(str, self.prompts))}" if self.prompts else ""
        return (
            f"{self.model} {self.phase} {ranks}, {self.num_rows} rows{prompts}, {len(self.rows)} live adapters, "
            f"{self.popularity}"
        )


def layout_of(model: Model, rank: int) -> AdapterLayout:
    """One layer of an adapter with this rank on every module that the model's adapters target."""
    ranks = tuple(rank if module in model.modules else 0 for module in range(len(MODULES)))
    return AdapterLayout(model.shape, (ranks,), ((1.0,) * len(MODULES),))


@dataclass(frozen=True)
class Layer:
    """One layer's adapters as plain tensors, padded with zeros to the largest rank, and its inputs and outputs.

    Attributes:
        a: by module, `[num_live, max_rank, in]`.
        b: by module, `[num_live, out, max_rank]`.
        inputs: by group, `[num_rows, in]`.
        outputs: by group, `[num_rows, sum of out]`.
    """

    a: dict[int, Tensor]
    b: dict[int, Tensor]
    inputs: list[Tensor]
    outputs: list[Tensor]


class LoraCase:
    """A point's data on a device: random adapters, the same ones in the page pool and as plain tensors."""

    def __init__(self, point: LoraPoint, device: torch.device | str = "cuda", max_layers: int = MAX_LAYERS) -> None:
        self.point = point
        self.model: Model = MODELS[point.model]
        self.rows, self.ranks = point.rows, point.live_ranks
        self.num_layers = min(max_layers, max(2, -(-ROTATION_BYTES // point.work.num_bytes)))
        self.max_rank = max(self.ranks)
        self.scales = tuple(islice(cycle(SCALES), len(self.ranks)))
        self.starts = [0, *accumulate(self.rows)]
        self.device = torch.device(device)
        torch.manual_seed(0)
        self.layers = [self._draw_layer() for _ in range(self.num_layers)]
        self._layouts = {rank: layout_of(self.model, rank) for rank in set(self.ranks)}
        sizes = [self._layouts[rank].num_pages(self.model.geometry) for rank in self.ranks]
        shuffled = torch.randperm(sum(sizes), device=self.device)  # no adapter's pages are side by side
        self.page_ids = list(shuffled.split(sizes))
        self.pages = self._fill_pages(sum(sizes))

    @cached_property
    def batch(self) -> LoraBatch:
        """What MBGMM reads, made once a step for all layers; adapters stand in the directory in another order."""
        num_live = len(self.ranks)
        slots = torch.randperm(num_live, device=self.device)
        width = max(len(ids) for ids in self.page_ids)
        table = torch.full((num_live, width), -1, dtype=torch.int32, device=self.device)
        places = torch.empty(num_live, self.num_layers, len(MODULES), 3, dtype=torch.int32, device=self.device)
        scales = torch.empty(places.shape[:3], dtype=torch.float32, device=self.device)
        for slot, ids, rank, scale in zip(slots.tolist(), self.page_ids, self.ranks, self.scales, strict=True):
            table[slot, : len(ids)] = ids
            places[slot] = self._places[rank]
            scales[slot] = scale
        elements = self.model.geometry.chunk_elements
        return LoraBatch(
            row_start=torch.tensor(self.starts, dtype=torch.int32, device=self.device),
            slots=slots.int(),
            directory=LoraDirectory(table, places, scales, elements, self.max_rank),
            is_decode=self.point.phase == "decode",
        )

    def share_rows(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Gives all layers the same inputs and outputs, as a model's layers have them, by group."""
        self.layers = [replace(data, inputs=inputs, outputs=outputs) for data in self.layers]

    @cached_property
    def _places(self) -> dict[int, Tensor]:
        """By rank, of each module the rank, and where A and B begin in the stream."""
        return {
            rank: torch.tensor(
                [[r, a, b] for r, (a, b) in zip(layout.ranks[0], layout.offsets[0], strict=True)], device=self.device
            )
            for rank, layout in self._layouts.items()
        }

    def expected(self, layer: int, outputs: list[Tensor]) -> list[Tensor]:
        """The groups' outputs after LoRA is added to `outputs`, in float64, an adapter at a time."""
        data = self.layers[layer]
        results = [output.double() for output in outputs]
        for index, group in enumerate(self.model.groups):
            parts = results[index].split(self.model.widths(group), 1)
            for adapter, scale in enumerate(self.scales):
                own = slice(self.starts[adapter], self.starts[adapter + 1])
                x = data.inputs[index][own].double()
                for module, part in zip(group, parts, strict=True):
                    part[own] += scale * (x @ data.a[module][adapter].double().T) @ data.b[module][adapter].double().T
        return results

    def _draw_layer(self) -> Layer:
        shape, num_rows = self.model.shape, self.point.num_rows
        ranks = torch.tensor(self.ranks, device=self.device)
        unused = torch.arange(self.max_rank, device=self.device) >= ranks[:, None]  # [num_live, max_rank]

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, dtype=DTYPE, device=self.device)

        a, b = {}, {}
        for module in self.model.modules:
            a[module] = draw(len(self.ranks), self.max_rank, shape.in_features(module))
            a[module] *= shape.in_features(module) ** -0.5
            a[module].masked_fill_(unused[:, :, None], 0)
            b[module] = draw(len(self.ranks), shape.out_features(module), self.max_rank)
            b[module] *= ranks[:, None, None].to(DTYPE) ** -0.5
            b[module].masked_fill_(unused[:, None, :], 0)
        inputs = [draw(num_rows, self.model.in_features(group)) for group in self.model.groups]
        outputs = [draw(num_rows, sum(self.model.widths(group))) for group in self.model.groups]
        return Layer(a, b, inputs, outputs)

    def _fill_pages(self, num_pages: int) -> Tensor:
        """The pool, `[num_layers, num_pages, page_elements]`, with every adapter's stream in its pages."""
        elements = self.model.geometry.page_elements
        pages = torch.full((self.num_layers, num_pages, elements), torch.nan, dtype=DTYPE, device=self.device)
        for rank in self._layouts:
            own = [adapter for adapter, other in enumerate(self.ranks) if other == rank]
            ids = torch.cat([self.page_ids[adapter] for adapter in own])
            for layer, data in enumerate(self.layers):
                streams = self._streams(data, own, rank)  # [num_own, stream]
                room = len(ids) // len(own) * elements - streams.shape[1]
                padded = torch.nn.functional.pad(streams, (0, room), value=torch.nan)
                pages[layer, ids] = padded.view(len(ids), elements)
        return pages

    def _streams(self, data: Layer, adapters: list[int], rank: int) -> Tensor:
        matrices = []
        for group in self.model.groups:
            matrices += [data.a[module][adapters, :rank].flatten(1) for module in group]
            matrices += [data.b[module][adapters, :, :rank].transpose(1, 2).flatten(1) for module in group]
        return torch.cat(matrices, 1)
