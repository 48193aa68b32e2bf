"""The live adapters' matrices as tensors: where they lie, worked out once for as long as the tables stay.

Views of the pages where the pages that a product needs are consecutive, as they are for an adapter that was loaded
into one run of free pages; otherwise views of a scratch, into which those pages have to be gathered first.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch


class Expand(NamedTuple):
    """One module's way back up: `outputs[output] += scale * part @ b`."""

    output: int
    b: Tensor  # [rank, out]
    scale: float


class Product(NamedTuple):
    """One adapter's part in a group of modules whose A matrices lie side by side.

    If `scratch` is set, `a` and every `b` are views of it, and `page_ids` have to be gathered into it before use.
    """

    adapter: int
    a: Tensor  # [in, sum of ranks]
    ranks: list[int]
    expands: list[Expand]
    page_ids: Tensor | None
    scratch: Tensor | None


class _Recipe(NamedTuple):
    """A product without memory: offsets in elements from `origin`, which is a page of the pool or of the scratch."""

    adapter: int
    origin: int
    a: int
    ranks: list[int]
    expands: list[tuple[int, int, float]]  # output, offset of B, scale
    page_ids: Tensor | None


class Matrices:
    """All products of a batch's tables, made when a layer's group of modules first asks."""

    def __init__(self, batch: LoraBatch) -> None:
        self._page_table: list[list[int]] = batch.page_table.tolist()
        self._device = batch.page_table.device
        # [num_live][num_layers][7], so that an adapter's layers can be compared.
        self._ranks: list[list[list[int]]] = batch.ranks.permute(2, 0, 1).tolist()
        self._offsets_a: list[list[list[int]]] = batch.offsets_a.permute(2, 0, 1).tolist()
        self._offsets_b: list[list[list[int]]] = batch.offsets_b.permute(2, 0, 1).tolist()
        self._scales: list[list[list[float]]] = batch.scales.permute(2, 0, 1).tolist()
        tables = list(zip(self._ranks, self._offsets_a, self._offsets_b, self._scales, strict=True))
        # The first layer with an adapter's very places and scales; for most adapters that is 0 in every layer.
        self._like = [
            [0 if all(table[layer] == table[0] for table in own) else layer for layer in range(len(own[0]))]
            for own in tables
        ]
        self._products: dict[tuple[int, int, tuple[int, ...]], list[Product]] = {}
        self._recipes: dict[tuple[int, int, tuple[int, ...]], list[_Recipe]] = {}
        self._scratch: Tensor | None = None

    def products(
        self, pages: Tensor, layer: int, modules: tuple[int, ...], in_features: int, widths: Sequence[int]
    ) -> list[Product]:
        """The products of all adapters that target one of `modules`, whose outputs have these `widths`."""
        key = (pages.data_ptr(), layer, modules)
        found = self._products.get(key)
        if found is None:
            assert pages.is_contiguous(), "pages are one block of memory"
            found = self._products[key] = [
                self._product(recipe, pages, in_features, widths)
                for adapter in range(len(self._page_table))
                for recipe in self._recipes_of(adapter, layer, modules, in_features, widths, pages.shape[1])
            ]
        return found

    def _product(self, recipe: _Recipe, pages: Tensor, in_features: int, widths: Sequence[int]) -> Product:
        memory, scratch = pages, None
        if recipe.page_ids is not None:
            memory = scratch = self._scratch_of(pages, recipe.page_ids.shape[0])
        origin = memory.storage_offset() + recipe.origin * pages.shape[1]
        a = memory.as_strided((in_features, sum(recipe.ranks)), (1, in_features), origin + recipe.a)
        expands = [
            Expand(output, memory.as_strided((rank, widths[output]), (widths[output], 1), origin + start), scale)
            for rank, (output, start, scale) in zip(recipe.ranks, recipe.expands, strict=True)
        ]
        return Product(recipe.adapter, a, recipe.ranks, expands, recipe.page_ids, scratch)

    def _recipes_of(
        self,
        adapter: int,
        layer: int,
        modules: tuple[int, ...],
        in_features: int,
        widths: Sequence[int],
        page_elements: int,
    ) -> list[_Recipe]:
        """An adapter's products, by where they lie."""
        like = self._like[adapter][layer]
        key = (adapter, like, modules)
        found = self._recipes.get(key)
        if found is None:
            found = self._recipes[key] = [
                self._recipe(adapter, like, run, in_features, widths, page_elements)
                for run in self._runs(adapter, like, modules, in_features)
            ]
        return found

    def _runs(
        self, adapter: int, layer: int, modules: tuple[int, ...], in_features: int
    ) -> list[list[tuple[int, int]]]:
        """The targeted modules, each with its output, cut where A matrices are not side by side."""
        runs: list[list[tuple[int, int]]] = []
        end = -1
        for output, module in enumerate(modules):
            rank = self._ranks[adapter][layer][module]
            if rank == 0:
                continue
            offset = self._offsets_a[adapter][layer][module]
            if offset != end:
                runs.append([])
            runs[-1].append((output, module))
            end = offset + rank * in_features
        return runs

    def _recipe(
        self,
        adapter: int,
        layer: int,
        run: list[tuple[int, int]],
        in_features: int,
        widths: Sequence[int],
        page_elements: int,
    ) -> _Recipe:
        ranks = [self._ranks[adapter][layer][module] for _, module in run]
        start_a = self._offsets_a[adapter][layer][run[0][1]]
        starts_b = [self._offsets_b[adapter][layer][module] for _, module in run]
        ends_b = [start + rank * widths[output] for start, rank, (output, _) in zip(starts_b, ranks, run, strict=True)]
        first = min(start_a, *starts_b) // page_elements
        last = (max(start_a + sum(ranks) * in_features, *ends_b) - 1) // page_elements
        held = self._page_table[adapter][first : last + 1]
        is_run = held[-1] - held[0] == last - first and held == list(range(held[0], held[-1] + 1))
        page_ids = None if is_run else torch.tensor(held, dtype=torch.int64, device=self._device)
        skipped = first * page_elements
        expands = [
            (output, start - skipped, self._scales[adapter][layer][module])
            for (output, module), start in zip(run, starts_b, strict=True)
        ]
        return _Recipe(adapter, held[0] if is_run else 0, start_a - skipped, ranks, expands, page_ids)

    def _scratch_of(self, pages: Tensor, num_pages: int) -> Tensor:
        """Room for `num_pages` pages, overwritten by each product in turn."""
        if self._scratch is None or self._scratch.shape[0] < num_pages:
            self._scratch = pages.new_empty(num_pages, pages.shape[1])
        return self._scratch[:num_pages]
