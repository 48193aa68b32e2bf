"""MBGMM in torch: a GEMM for each live adapter, over views of its pages.

What the CPU runs. A small model's GEMMs of a few rows take microseconds, so nothing that depends on the adapters alone
is done twice: their matrices are made as views once and kept with the batch's tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.lora.batch import LoraBatch


def mbgmm(
    outputs: Sequence[Tensor], x: Tensor, pages: Tensor, batch: LoraBatch, *, layer: int, modules: Sequence[int]
) -> None:
    """As `kernels.lora.mbgmm`."""
    matrices = batch.derived.get(_Matrices)
    if matrices is None:
        matrices = batch.derived[_Matrices] = _Matrices(batch)
    products = matrices.of_group(outputs, x, pages, layer, tuple(modules))
    counts = batch.row_counts
    if not products or counts[0] == x.shape[0]:
        return
    x_of = x.split(counts)
    outputs_of = [output.split(counts) for output in outputs]
    for product in products:
        owner = product.adapter + 1
        if counts[owner] == 0:
            continue
        if product.scattered is not None:
            torch.index_select(pages, 0, product.page_ids, out=product.scattered)
        shrunk = torch.mm(x_of[owner], product.a)  # [rows, sum of ranks]
        parts = shrunk.split(product.ranks, 1) if len(product.ranks) > 1 else (shrunk,)
        for part, expand in zip(parts, product.expands, strict=True):
            outputs_of[expand.output][owner].addmm_(part, expand.b, alpha=expand.scale)


@dataclass(frozen=True, slots=True)
class _Expand:
    """One module's way back up: `outputs[output] += scale * part @ b`."""

    output: int
    b: Tensor  # [rank, out]
    scale: float


@dataclass(frozen=True, slots=True)
class _Product:
    """One adapter's part in a group of modules whose A matrices lie side by side.

    The matrices are views of the pages where these are consecutive, and otherwise of `scattered`, a scratch shared by
    all products, into which `page_ids` have to be gathered first.
    """

    adapter: int
    a: Tensor  # [in, sum of ranks]
    ranks: list[int]
    expands: tuple[_Expand, ...]
    page_ids: Tensor
    scattered: Tensor | None


class _Matrices:
    """The live adapters' matrices, found once for each layer and group of modules."""

    def __init__(self, batch: LoraBatch) -> None:
        self._page_table: list[list[int]] = batch.page_table.tolist()
        self._ranks: list[list[list[int]]] = batch.ranks.tolist()
        self._offsets_a: list[list[list[int]]] = batch.offsets_a.tolist()
        self._offsets_b: list[list[list[int]]] = batch.offsets_b.tolist()
        self._scales: list[list[list[float]]] = batch.scales.tolist()
        self._products: dict[tuple[int, int, tuple[int, ...]], list[_Product]] = {}
        self._scratch: Tensor | None = None

    def of_group(
        self, outputs: Sequence[Tensor], x: Tensor, pages: Tensor, layer: int, modules: tuple[int, ...]
    ) -> list[_Product]:
        key = (pages.data_ptr(), layer, modules)
        products = self._products.get(key)
        if products is None:
            assert pages.is_contiguous(), "pages are one block of memory"
            widths = {module: output.shape[1] for module, output in zip(modules, outputs, strict=True)}
            products = [
                self._product(pages, layer, adapter, run, x.shape[1], widths)
                for adapter in range(len(self._page_table))
                for run in self._runs(layer, adapter, modules, x.shape[1])
            ]
            self._products[key] = products
        return products

    def _runs(self, layer: int, adapter: int, modules: tuple[int, ...], in_features: int) -> list[list[int]]:
        """The targeted modules, cut where A matrices are not side by side."""
        runs: list[list[int]] = []
        end = -1
        for module in modules:
            rank = self._ranks[layer][module][adapter]
            if rank == 0:
                continue
            offset = self._offsets_a[layer][module][adapter]
            if offset == end:
                runs[-1].append(module)
            else:
                runs.append([module])
            end = offset + rank * in_features
        return runs

    def _product(
        self, pages: Tensor, layer: int, adapter: int, run: list[int], in_features: int, widths: dict[int, int]
    ) -> _Product:
        ranks = [self._ranks[layer][module][adapter] for module in run]
        start_a = self._offsets_a[layer][run[0]][adapter]
        starts_b = [self._offsets_b[layer][module][adapter] for module in run]
        sizes_b = [rank * widths[module] for rank, module in zip(ranks, run, strict=True)]
        size_a = sum(ranks) * in_features

        page_elements = pages.shape[1]
        first = min(start_a, *starts_b) // page_elements
        end = max(start_a + size_a, *(start + size for start, size in zip(starts_b, sizes_b, strict=True)))
        held = self._page_table[adapter][first : -(-end // page_elements)]
        scattered = None
        if held == list(range(held[0], held[0] + len(held))):
            stream = pages[held[0] : held[0] + len(held)].view(-1)
        else:
            scattered = self._scratch_of(pages, len(held))
            stream = scattered.view(-1)

        def matrix(start: int, rank: int, width: int) -> Tensor:
            start -= first * page_elements
            return stream[start : start + rank * width].view(rank, width)

        # A module's number says which output is its own: `widths` was made in their order.
        order = list(widths)
        expands = tuple(
            _Expand(order.index(module), matrix(start, rank, widths[module]), self._scales[layer][module][adapter])
            for module, rank, start in zip(run, ranks, starts_b, strict=True)
        )
        page_ids = torch.tensor(held, dtype=torch.int64, device=pages.device)
        return _Product(adapter, matrix(start_a, sum(ranks), in_features).t(), ranks, expands, page_ids, scattered)

    def _scratch_of(self, pages: Tensor, num_pages: int) -> Tensor:
        """Room for `num_pages` pages, overwritten by each product in turn."""
        if self._scratch is None or self._scratch.shape[0] < num_pages:
            self._scratch = pages.new_empty(num_pages, pages.shape[1])
        return self._scratch[:num_pages]
