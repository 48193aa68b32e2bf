"""Adapters, batches and pages for the tests of MBGMM."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.lora import LoraBatch
from kernels.lora.kernel.plan import Plan
from tests.kernels.pages import Matrices, lora_batch, write_adapter
from worker.memory.layout import MODULES, AdapterLayout, ModelShape, PageGeometry

SHAPE = ModelShape(num_layers=2, hidden_size=48, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=80)
GEOMETRY = PageGeometry(SHAPE, block_size=4)
NUM_GUARDS = 2  # pages before and after the pool


@dataclass
class Case:
    """Adapters in pages whose every other element is NaN, as all is around the pool, and the rows that use them."""

    guarded: Tensor
    batch: LoraBatch
    num_rows: int
    shape: ModelShape

    @property
    def pages(self) -> Tensor:
        return self.guarded[:, NUM_GUARDS:-NUM_GUARDS]

    def inputs(self, group: tuple[int, ...]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Input, a tensor with a NaN border, and the modules' outputs as slices of it."""
        widths = [self.shape.out_features(module) for module in group]
        x = torch.randn(self.num_rows, self.shape.in_features(group[0])).to(self.pages)
        fused = torch.full((self.num_rows, sum(widths) + 3), torch.nan).to(self.pages)
        fused[:, : sum(widths)] = torch.randn(self.num_rows, sum(widths)).to(fused)
        return x, fused, list(fused[:, : sum(widths)].split(widths, 1))


def draw_adapter(
    rng: random.Random, ranks: tuple[int, ...], shape: ModelShape = SHAPE
) -> tuple[AdapterLayout, Matrices]:
    chosen = tuple(tuple(rng.choice(ranks) for _ in MODULES) for _ in range(shape.num_layers))
    scales = tuple(tuple(rng.choice((0.25, 0.5, 1.0)) for _ in MODULES) for _ in range(shape.num_layers))
    matrices = {
        (layer, module): (
            torch.randn(rank, shape.in_features(module)) / shape.in_features(module) ** 0.5,
            torch.randn(shape.out_features(module), rank) / rank**0.5,
        )
        for layer, row in enumerate(chosen)
        for module, rank in enumerate(row)
        if rank
    }
    return AdapterLayout(shape, chosen, scales), matrices


def draw_case(
    rng: random.Random,
    counts: list[int],
    ranks: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device | str,
    geometry: PageGeometry = GEOMETRY,
) -> Case:
    """`counts` are the rows of the base model, then of each adapter; pages are shuffled."""
    torch.manual_seed(rng.randrange(2**31))
    adapters = [draw_adapter(rng, ranks, geometry.shape) for _ in counts[1:]]
    sizes = [layout.num_pages(geometry) for layout, _ in adapters]
    free = rng.sample(range(sum(sizes) + 5), sum(sizes) + 5)
    shape = (geometry.shape.num_layers, len(free) + 2 * NUM_GUARDS, geometry.page_elements)
    guarded = torch.full(shape, torch.nan, dtype=dtype)
    held = []
    for (layout, matrices), size in zip(adapters, sizes, strict=True):
        held.append([free.pop() for _ in range(size)])
        if rng.random() < 0.3:
            held[-1].sort()
        write_adapter(guarded[:, NUM_GUARDS:-NUM_GUARDS], layout, matrices, held[-1])
    starts = [sum(counts[: i + 1]) for i in range(len(counts))]
    batch = lora_batch([layout for layout, _ in adapters], held, starts, device, geometry.chunk_elements)
    return Case(guarded.to(device), batch, sum(counts), geometry.shape)


def draw_counts(rng: random.Random, popularity: str, num_rows: int) -> list[int]:
    match popularity:
        case "none":
            return [num_rows, 0, 0]
        case "identical":
            return [0, num_rows]
        case "distinct":
            return [0, *[1] * num_rows]
        case "uniform":
            weights = [1.0] * 9
        case _:
            weights = [1 / (place + 1) for place in range(9)]
    rows = rng.choices(range(len(weights)), weights, k=num_rows)
    return [rows.count(place) for place in range(len(weights))]


def plans(batch: LoraBatch) -> list[Plan]:
    return [plan for plan in batch.plans.values() if isinstance(plan, Plan)]
