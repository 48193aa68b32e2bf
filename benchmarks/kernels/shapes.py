"""The models whose shapes are measured, each as one GPU sees it."""

from dataclasses import dataclass
from functools import cached_property

from worker.memory.layout import GROUPS, ModelShape, PageGeometry

BLOCK_SIZE = 16  # tokens of a page
ATTENTION = GROUPS[:2]  # q k v, and o


@dataclass(frozen=True)
class Model:
    """One model, or one tensor-parallel shard of it.

    Attributes:
        name: how points name it.
        shape: widths of the shard.
        groups: the projection groups that adapters target; modules of a group share their input.
    """

    name: str
    shape: ModelShape
    groups: tuple[tuple[int, ...], ...] = GROUPS

    @cached_property
    def geometry(self) -> PageGeometry:
        """Its pages."""
        return PageGeometry(self.shape, BLOCK_SIZE)

    @cached_property
    def modules(self) -> tuple[int, ...]:
        """The modules that adapters target."""
        return tuple(module for group in self.groups for module in group)

    def in_features(self, group: tuple[int, ...]) -> int:
        """Width of a group's input."""
        return self.shape.in_features(group[0])

    def widths(self, group: tuple[int, ...]) -> list[int]:
        """Output widths of a group's modules."""
        return [self.shape.out_features(module) for module in group]

    @property
    def linear_elements(self) -> int:
        """Elements of one layer's base weights."""
        return sum(self.in_features(group) * sum(self.widths(group)) for group in GROUPS)


def _shape(hidden: int, ffn: int, heads: int, kv_heads: int) -> ModelShape:
    return ModelShape(
        num_layers=1, hidden_size=hidden, num_heads=heads, num_kv_heads=kv_heads, head_dim=128, intermediate_size=ffn
    )


# Of a column-parallel linear a shard holds its columns' B and the whole A, of a row-parallel one its rows' A.
MODELS = {
    model.name: model
    for model in (
        Model("llama-7b", _shape(4096, 11008, 32, 32), ATTENTION),
        Model("llama-3-8b", _shape(4096, 14336, 32, 8)),
        Model("llama-70b/tp8", _shape(8192, 28672 // 8, 8, 1)),
        Model("llama-70b/tp4", _shape(8192, 28672 // 4, 16, 2)),
    )
}
