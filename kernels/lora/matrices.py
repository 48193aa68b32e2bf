"""An adapter's matrices as tensors, found once for as long as it stays in its pages.

Views of the pages where the pages that a product needs are consecutive, as they are for an adapter that was loaded
into one run of free pages; otherwise views of a copy that is gathered for each use.
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
    """An adapter's part in a group of modules whose A matrices lie side by side."""

    a: Tensor  # [in, sum of ranks]
    ranks: list[int]
    expands: list[Expand]


class _Place(NamedTuple):
    """Where one module's matrices are; `output` is its index among the modules asked for."""

    output: int
    width: int
    rank: int
    a: int
    b: int
    scale: float


class Recipe(NamedTuple):
    """A product without memory: its pages, and places counted from the first of them."""

    pages: list[int]
    in_features: int
    places: list[_Place]

    @property
    def is_consecutive(self) -> bool:
        """Whether the pages are one run."""
        return self.pages == list(range(self.pages[0], self.pages[0] + len(self.pages)))

    def over(self, memory: Tensor, first_page: int) -> Product:
        """The product as views of `memory`, `[any, page_elements]`, in which its pages begin at `first_page`."""
        origin = memory.storage_offset() + first_page * memory.shape[1]
        ranks = [place.rank for place in self.places]
        a = memory.as_strided((self.in_features, sum(ranks)), (1, self.in_features), origin + self.places[0].a)
        expands = [
            Expand(output, memory.as_strided((rank, width), (width, 1), origin + b), scale)
            for output, width, rank, _, b, scale in self.places
        ]
        return Product(a, ranks, expands)

    def gathered(self, pages: Tensor) -> Product:
        """The product as views of a copy of its pages."""
        held = torch.tensor(self.pages, dtype=torch.int64, device=pages.device)
        return self.over(pages.index_select(0, held), 0)


class Matrices:
    """Where one adapter's matrices are."""

    def __init__(self, batch: LoraBatch, adapter: int) -> None:
        self._pages: list[int] = batch.page_table[adapter].tolist()
        tables = (batch.ranks, batch.offsets_a, batch.offsets_b, batch.scales)
        self._tables = [table[:, :, adapter].tolist() for table in tables]  # each [num_layers][7]
        self._recipes: dict[tuple[int, tuple[int, ...]], list[Recipe]] = {}
        self._found: dict[tuple[int, int, tuple[int, ...]], list[Product | Recipe]] = {}

    def find(
        self, pages: Tensor, layer: int, modules: tuple[int, ...], in_features: int, widths: list[int]
    ) -> list[Product | Recipe]:
        """What the adapter does for `modules`, whose outputs have these `widths`; empty if it targets none of them."""
        key = (pages.data_ptr(), layer, modules)
        found = self._found.get(key)
        if found is None:
            # Most adapters have the same ranks and places in every layer.
            like = 0 if all(table[layer] == table[0] for table in self._tables) else layer
            recipes = self._recipes.get((like, modules))
            if recipes is None:
                runs = _side_by_side(self._places(like, modules, widths), in_features)
                recipes = [self._recipe(run, in_features, pages.shape[1]) for run in runs]
                self._recipes[like, modules] = recipes
            found = self._found[key] = [
                recipe.over(pages, recipe.pages[0]) if recipe.is_consecutive else recipe for recipe in recipes
            ]
        return found

    def _places(self, layer: int, modules: tuple[int, ...], widths: list[int]) -> list[_Place]:
        ranks, offsets_a, offsets_b, scales = (table[layer] for table in self._tables)
        return [
            _Place(output, widths[output], ranks[module], offsets_a[module], offsets_b[module], scales[module])
            for output, module in enumerate(modules)
            if ranks[module]
        ]

    def _recipe(self, run: list[_Place], in_features: int, page_elements: int) -> Recipe:
        starts = [run[0].a, *(place.b for place in run)]
        ends = [run[-1].a + run[-1].rank * in_features, *(place.b + place.rank * place.width for place in run)]
        first, last = min(starts) // page_elements, (max(ends) - 1) // page_elements
        skipped = first * page_elements
        places = [place._replace(a=place.a - skipped, b=place.b - skipped) for place in run]
        return Recipe(self._pages[first : last + 1], in_features, places)


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
