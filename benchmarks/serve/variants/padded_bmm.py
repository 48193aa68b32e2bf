"""LoRA by batched matrix products: every live adapter padded to the largest live rank, every one's rows to the most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.serve.variants.unified import Unified
from kernels.activation import silu_mul
from kernels.lora import LoraBatch, LoraDirectory
from worker.engine.config import EngineConfig
from worker.memory.layout import GROUPS, MODULES, ModelShape
from worker.model.batch import ForwardBatch
from worker.model.config import ModelConfig
from worker.model.decoder import Decoder
from worker.model.weights import LayerWeights, ModelWeights, Projection


@dataclass(frozen=True)
class PaddedBmm(Unified):
    """The same pool, scheduler and base; MBGMM's work is done by gathering weights and `torch.bmm`."""

    name: str = "padded bmm"
    pool_share: float = 0.6  # what is padded and gathered takes of the rest

    def configure(self, config: EngineConfig) -> EngineConfig:
        """Without recorded steps: the shapes of what is padded change with every batch."""
        return replace(config, max_graph_rows=0)

    def decoder(self, config: ModelConfig, weights: ModelWeights) -> Decoder:
        """One whose linear layers add LoRA themselves."""
        return BmmDecoder(config, weights)


class _Rows(NamedTuple):
    """How a step's rows are padded.

    Attributes:
        own: Those that have an adapter.
        gather: `[num_live, longest]`, rows of x; what is padded repeats one.
        places: `[num_own]`, where in the padded result each row's is.
    """

    own: slice
    gather: Tensor
    places: Tensor


class _Matrices(NamedTuple):
    """How one module's matrices are padded: places of chunks in a layer, and what the bridge is multiplied with."""

    a: Tensor  # [num_live, max_rank, in / chunk]
    b: Tensor  # [num_live, max_rank, out / chunk]
    scale: Tensor  # [num_live, 1, max_rank], 0 beyond an adapter's rank


class PaddedLora:
    """Adds LoRA to the outputs of one linear after another, for the batch and pages of the step.

    Adapters have the same ranks, places and scales in every layer, as those of benchmarks do.
    """

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._rows: _Rows | None = None
        self._chunks = torch.empty(0)  # [num_layers, num_chunks, chunk_elements]
        self._matrices: dict[int, _Matrices] = {}

    def begin(self, batch: LoraBatch | None, pages: Tensor) -> None:
        """A step's; `pages` are those of all layers."""
        self._rows = None
        if batch is None:
            return
        directory, slots = batch.directory, batch.slots.long()
        self._rows = _padded_rows(batch.row_start)
        self._chunks = pages.view(pages.shape[0], -1, directory.chunk_elements)
        max_ranks = directory.places[slots, 0, :, 0].amax(0).tolist()
        self._matrices = {
            module: self._padded(directory, slots, module, max_rank, pages.shape[2], pages.dtype)
            for module, max_rank in zip(range(len(MODULES)), max_ranks, strict=True)
            if max_rank
        }

    def add(self, outputs: Sequence[Tensor], x: Tensor, layer: int, modules: Sequence[int]) -> None:
        """`outputs[m][t] += scale * (x[t] @ A.T) @ B.T` with each row's own adapter."""
        rows = self._rows
        if rows is None:
            return
        padded, chunks = x[rows.gather], self._chunks[layer]  # [num_live, longest, in]
        for output, module in zip(outputs, modules, strict=True):
            if (matrices := self._matrices.get(module)) is not None:
                bridge = torch.bmm(padded, chunks[matrices.a].flatten(2).transpose(1, 2)) * matrices.scale
                whole = torch.bmm(bridge, chunks[matrices.b].flatten(2))  # [num_live, longest, out]
                output[rows.own] += whole.flatten(0, 1)[rows.places]

    def _padded(
        self,
        directory: LoraDirectory,
        slots: Tensor,
        module: int,
        max_rank: int,
        page_elements: int,
        dtype: torch.dtype,
    ) -> _Matrices:
        """Rows beyond an adapter's own rank repeat one of its own, so that only its numbers are multiplied with 0."""
        chunk, device = directory.chunk_elements, slots.device
        ranks, *firsts = directory.places[slots, 0, module].long().unbind(-1)
        rank = torch.arange(max_rank, device=device)
        row = torch.minimum(rank, (ranks[:, None] - 1).clamp_min(0))  # [num_live, max_rank]
        pages = directory.page_table[slots].long()
        places = []
        for first, width in zip(
            firsts, (self._shape.in_features(module), self._shape.out_features(module)), strict=True
        ):
            columns = torch.arange(0, width, chunk, device=device)
            elements = first[:, None, None] + row[..., None] * width + columns
            number = (elements // page_elements).clamp_max(pages.shape[1] - 1)  # of an adapter without the module, too
            page = pages.gather(1, number.flatten(1)).view_as(number).clamp_min(0)
            places.append((page * page_elements + elements % page_elements) // chunk)
        scale = (rank < ranks[:, None]) * directory.scales[slots, 0, module][:, None]
        return _Matrices(places[0], places[1], scale.to(dtype)[:, None])


class BmmDecoder(Decoder):
    """A decoder that knows of no adapters, over linear layers that do."""

    def __init__(self, config: ModelConfig, weights: ModelWeights) -> None:
        self._lora = PaddedLora(config.shape)
        layers = tuple(self._with_lora(layer, own, config.shape) for layer, own in enumerate(weights.layers))
        super().__init__(config, replace(weights, layers=layers))

    def forward(self, batch: ForwardBatch, pages: Tensor, logits: Tensor | None = None) -> Tensor:
        """As `Decoder.forward`, but past the last layer's attention for all rows: 3 % of a prompt more, at most."""
        with torch.inference_mode():
            self._lora.begin(batch.lora, pages)
        return super().forward(replace(batch, lora=None, is_narrow=False), pages, logits)

    def _with_lora(self, layer: int, weights: LayerWeights, shape: ModelShape) -> LayerWeights:
        def add_to(linear: Projection, group: tuple[int, ...]) -> BmmProjection:
            widths = tuple(map(shape.out_features, group))
            return BmmProjection(linear.weight, linear.bias, self._lora, layer, group, widths)

        qkv, o, gate_up, down = GROUPS
        return replace(
            weights,
            qkv=add_to(weights.qkv, qkv),
            o=add_to(weights.o, o),
            gate_up=add_to(weights.gate_up, gate_up),
            down=add_to(weights.down, down),
        )


@dataclass(frozen=True)
class BmmProjection(Projection):
    """A linear layer, then LoRA."""

    lora: PaddedLora
    layer: int
    modules: tuple[int, ...]
    widths: tuple[int, ...]

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """As `Projection.__call__`."""
        Projection.__call__(self, x, out)
        self.lora.add(out.split(self.widths, 1), x, self.layer, self.modules)
        return out

    def gated(self, x: Tensor, out: Tensor, product: Tensor) -> Tensor:
        """As `Projection.gated`."""
        return silu_mul(self(x, out), product)


def _padded_rows(row_start: Tensor) -> _Rows:
    starts, device = row_start.tolist(), row_start.device
    counts = [end - start for start, end in pairwise(starts)]
    within = torch.arange(max(counts), device=device)
    first = torch.tensor(starts[:-1], device=device)[:, None]
    number = torch.tensor(counts, device=device)[:, None]
    gather = first + torch.minimum(within, (number - 1).clamp_min(0))
    return _Rows(slice(starts[0], starts[-1]), gather, (within < number).flatten().nonzero().flatten())
