"""An adapter's matrices as tensors, found once for as long as it stays in its pages.

Views of the pages where the pages that a product needs are consecutive, as they are for an adapter that was loaded
into one run of free pages; otherwise views of a scratch, into which those pages are gathered for each use. The scratch
is the adapter's own and has room for one group of modules in one layer.
"""

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
    """An adapter's part in a group of modules whose A matrices lie side by side.

    If `page_ids` is set, these pages have to be gathered into `scratch` before use.
    """

    a: Tensor  # [in, sum of ranks]
    ranks: list[int]
    expands: list[Expand]
    page_ids: Tensor | None
    scratch: Tensor | None


class _Place(NamedTuple):
    """Where one module's matrices are; `output` is its index among the modules asked for."""

    output: int
    width: int
    rank: int
    a: int
    b: int
    scale: float


class _Recipe(NamedTuple):
    """A product without memory: its pages, and places counted from the first of them."""

    pages: list[int]
    page_ids: Tensor | None  # if the pages are not one run
    in_features: int
    places: list[_Place]


class Matrices:
    """Where one adapter's matrices are."""

    def __init__(self, batch: LoraBatch, adapter: int) -> None:
        slot, directory = int(batch.slots[adapter]), batch.directory
        self._pages: list[int] = directory.page_table[slot].tolist()
        tables = (*directory.places[slot].unbind(-1), directory.scales[slot])
        self._tables = [table.tolist() for table in tables]  # ranks, places of A and B, scales; each [num_layers][7]
        self._recipes: dict[tuple[int, tuple[int, ...]], list[_Recipe]] = {}
        self._products: dict[tuple[int, int, tuple[int, ...]], list[Product]] = {}
        self._scratch: Tensor | None = None

    def products(
        self, pages: Tensor, layer: int, modules: tuple[int, ...], in_features: int, widths: list[int]
    ) -> list[Product]:
        """What the adapter does for `modules`, whose outputs have these `widths`; empty if it targets none of them."""
        key = (pages.data_ptr(), layer, modules)
        products = self._products.get(key)
        if products is None:
            recipes = self._recipes_of(pages, layer, modules, in_features, widths)
            products = self._products[key] = [self._product(recipe, pages) for recipe in recipes]
        return products

    def _product(self, recipe: _Recipe, pages: Tensor) -> Product:
        memory, scratch, first_page = pages, None, recipe.pages[0]
        if recipe.page_ids is not None:
            memory = scratch = self._scratch_of(pages, len(recipe.pages))
            first_page = 0
        origin = memory.storage_offset() + first_page * pages.shape[1]
        ranks = [place.rank for place in recipe.places]
        size = (recipe.in_features, sum(ranks))
        a = memory.as_strided(size, (1, recipe.in_features), origin + recipe.places[0].a)
        expands = [
            Expand(output, memory.as_strided((rank, width), (width, 1), origin + b), scale)
            for output, width, rank, _, b, scale in recipe.places
        ]
        return Product(a, ranks, expands, recipe.page_ids, scratch)

    def _recipes_of(
        self, pages: Tensor, layer: int, modules: tuple[int, ...], in_features: int, widths: list[int]
    ) -> list[_Recipe]:
        # Most adapters have the same ranks and places in every layer.
        like = 0 if all(table[layer] == table[0] for table in self._tables) else layer
        recipes = self._recipes.get((like, modules))
        if recipes is None:
            runs = _side_by_side(self._places(like, modules, widths), in_features)
            recipes = self._recipes[like, modules] = [self._recipe(run, pages, in_features) for run in runs]
        return recipes

    def _places(self, layer: int, modules: tuple[int, ...], widths: list[int]) -> list[_Place]:
        ranks, offsets_a, offsets_b, scales = (table[layer] for table in self._tables)
        return [
            _Place(output, widths[output], ranks[module], offsets_a[module], offsets_b[module], scales[module])
            for output, module in enumerate(modules)
            if ranks[module]
        ]

    def _recipe(self, run: list[_Place], pages: Tensor, in_features: int) -> _Recipe:
        page_elements = pages.shape[1]
        starts = [run[0].a, *(place.b for place in run)]
        ends = [run[-1].a + run[-1].rank * in_features, *(place.b + place.rank * place.width for place in run)]
        first, last = min(starts) // page_elements, (max(ends) - 1) // page_elements
        held = self._pages[first : last + 1]
        is_run = held == list(range(held[0], held[0] + len(held)))
        page_ids = None if is_run else torch.tensor(held, dtype=torch.int64, device=pages.device)
        skipped = first * page_elements
        places = [place._replace(a=place.a - skipped, b=place.b - skipped) for place in run]
        return _Recipe(held, page_ids, in_features, places)

    def _scratch_of(self, pages: Tensor, num_pages: int) -> Tensor:
        if self._scratch is None or self._scratch.shape[0] < num_pages:
            self._scratch = pages.new_empty(num_pages, pages.shape[1])
        return self._scratch[:num_pages]


def _side_by_side(places: list[_Place], in_features: int) -> list[list[_Place]]:
    """Cuts where A matrices are not side by side."""
    runs: list[list[_Place]] = []
    end = -1
    for place in places:
        if place.a != end:
            runs.append([])
        runs[-1].append(place)
        end = place.a + place.rank * in_features
    return runs
