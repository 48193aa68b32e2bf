"""Geometry of a page, and where an adapter's matrices lie in its pages. No torch here.

A page id is valid in every layer: the pool's storage is `[num_layers, num_pages, page_elements]`. In one layer a
page holds either KV of `block_size` tokens, `[2, block_size, num_kv_heads, head_dim]` (keys, then values), or
`page_elements` elements of one adapter's *stream* for that layer.

The stream of a layer is the concatenation, without gaps, of the projection groups (q k v), (o), (gate up), (down);
a group holds its modules' A matrices in order, `[rank, in]` row-major as PEFT stores them, then its B matrices
transposed, `[rank, out]`. So every row belongs to one rank, the A matrices of a group are one `[sum of ranks, in]`
matrix, and a module that the adapter does not target takes no space. Pages needed are those of the largest layer.
"""

from dataclasses import dataclass
from functools import cached_property
from math import ceil, gcd

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
GROUPS = ((0, 1, 2), (3,), (4, 5), (6,))  # indices in MODULES; the modules of a group share their input


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The dimensions that adapters and KV depend on."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int

    def in_features(self, module: int) -> int:
        """Input width of `MODULES[module]`."""
        if MODULES[module] == "o":
            return self.num_heads * self.head_dim
        return self.intermediate_size if MODULES[module] == "down" else self.hidden_size

    def out_features(self, module: int) -> int:
        """Output width of `MODULES[module]`."""
        name = MODULES[module]
        if name == "q":
            return self.num_heads * self.head_dim
        if name in ("k", "v"):
            return self.num_kv_heads * self.head_dim
        return self.hidden_size if name in ("o", "down") else self.intermediate_size


@dataclass(frozen=True, slots=True)
class PageGeometry:
    """The size of a page: one block of KV of one layer."""

    shape: ModelShape
    block_size: int

    @property
    def page_elements(self) -> int:
        """Elements of a page in one layer."""
        return 2 * self.block_size * self.shape.num_kv_heads * self.shape.head_dim

    @property
    def chunk_elements(self) -> int:
        """Largest run of a matrix row that, cut at its multiples, never crosses a page border."""
        widths = [self.shape.in_features(m) for m in range(len(MODULES))]
        widths += [self.shape.out_features(m) for m in range(len(MODULES))]
        return gcd(self.page_elements, *widths)

    def pages_for_tokens(self, num_tokens: int) -> int:
        """Pages that hold the KV of `num_tokens` tokens."""
        return ceil(num_tokens / self.block_size)


@dataclass(frozen=True)
class AdapterLayout:
    """Ranks and scales of an adapter, `[num_layers][len(MODULES)]`; rank 0 means that the module is not targeted.

    The contribution of a module is `scale * (x @ A.T) @ B.T` with A `[rank, in]` and B `[out, rank]`.
    """

    shape: ModelShape
    ranks: tuple[tuple[int, ...], ...]
    scales: tuple[tuple[float, ...], ...]

    @cached_property
    def offsets(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """First element of A and of transposed B in the layer's stream, `[num_layers][len(MODULES)]`."""
        return tuple(self._of_ranks[ranks][0] for ranks in self.ranks)

    @cached_property
    def stream_elements(self) -> int:
        """Elements of the largest layer's stream."""
        return max(end for _, end in self._of_ranks.values())

    @property
    def max_rank(self) -> int:
        """Largest rank of any module."""
        return max(max(ranks) for ranks in self.ranks)

    def num_pages(self, geometry: PageGeometry) -> int:
        """Pages that hold the adapter."""
        return ceil(self.stream_elements / geometry.page_elements)

    @cached_property
    def _of_ranks(self) -> dict[tuple[int, ...], tuple[tuple[tuple[int, int], ...], int]]:
        """What `_layer_offsets` says of the ranks that some layer has; most adapters have the same in all."""
        return {ranks: self._layer_offsets(ranks) for ranks in set(self.ranks)}

    def _layer_offsets(self, ranks: tuple[int, ...]) -> tuple[tuple[tuple[int, int], ...], int]:
        starts_a, starts_b = [0] * len(MODULES), [0] * len(MODULES)
        end = 0
        for group in GROUPS:
            for module in group:
                starts_a[module] = end
                end += ranks[module] * self.shape.in_features(module)
            for module in group:
                starts_b[module] = end
                end += ranks[module] * self.shape.out_features(module)
        return tuple(zip(starts_a, starts_b, strict=True)), end
