"""The step that is looked at, and the least that each of its parts has to move and compute."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from benchmarks.kernels.floors import ELEMENT, Work, attention_work
from benchmarks.kernels.shapes import Model
from benchmarks.serve.options import counted
from benchmarks.serve.setups import Setup
from kernels.lora.kernel.tiling import ADDED_ROWS, SPLIT_ROWS
from worker.memory.layout import GROUPS, MODULES, ModelShape

QKV, O, GATE_UP, DOWN = GROUPS  # noqa: E741 - the projection's name


@dataclass(frozen=True)
class Case:
    """A step.

    Attributes:
        setup: The model and its adapters.
        rows: Sequences that decode.
        adapters: Distinct adapters among them; 0: the base model alone.
        context: Tokens of each.
        chunk: Tokens of one more sequence's prompt; 0: none.
    """

    setup: Setup
    rows: int
    adapters: int
    context: int
    chunk: int = 0

    @classmethod
    def parse(cls, setup: Setup, words: str) -> Self:
        """From `rows,adapters,context[,chunk]`. Raises ValueError for anything else."""
        numbers = [int(word) for word in words.split(",")]
        if len(numbers) not in (3, 4) or min(numbers) < 0 or numbers[0] < 1:
            raise ValueError(f"{words!r} is no step: write rows,adapters,context or rows,adapters,context,chunk")
        rows, adapters, *rest = numbers
        return cls(setup, rows, min(adapters, rows), *rest)

    def __str__(self) -> str:
        adapters = counted(self.adapters, "adapter") if self.adapters else "base only"
        chunk = f", a prompt of {self.chunk} tokens" if self.chunk else ""
        return f"{self.setup.name}, {counted(self.rows, 'decode')} of {self.context} tokens, {adapters}{chunk}"

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return self.rows + self.chunk

    @property
    def num_logits(self) -> int:
        """Rows of logits."""
        return self.rows + bool(self.chunk)

    @property
    def narrow(self) -> Self:
        """The last layer past its attention: with the rows alone of which logits are wanted."""
        return replace(self, chunk=min(self.chunk, 1))

    def adapter_of(self, row: int) -> int | None:
        """The adapter of a decode, by number; the prompt has that of decode 0."""
        return row % self.adapters if self.adapters else None

    @property
    def rows_of_adapters(self) -> Mapping[int, int]:
        """Rows of each live adapter."""
        counts: dict[int, int] = {}
        for row in range(self.rows):
            if (adapter := self.adapter_of(row)) is not None:
                counts[adapter] = counts.get(adapter, 0) + 1
        if self.adapters:
            counts[0] += self.chunk
        return counts


def linear(group: Sequence[int]) -> Callable[[Case], Work]:
    """A projection group's base weights, over all layers, and B of the adapters whose shares it adds."""

    def layer(case: Case) -> Work:
        shape = case.setup.shape
        width_in, width_out = shape.in_features(group[0]), sum(map(shape.out_features, group))
        num_bytes = ELEMENT * (width_in * width_out + case.num_rows * (width_in + width_out))
        return Work(num_bytes, 2 * case.num_rows * width_in * width_out)

    def work(case: Case) -> Work:
        return _over_layers(case, group, layer) + _matrices(ModelShape.out_features, [group], _added)(case)

    return work


def head(case: Case) -> Work:
    """Logits of the last rows."""
    hidden, vocab = case.setup.shape.hidden_size, case.setup.vocab_size
    num_bytes = ELEMENT * (hidden * vocab + case.num_logits * (hidden + vocab))
    return Work(num_bytes, 2 * case.num_logits * hidden * vocab)


def every_product(case: Case) -> Work:
    """All linear layers and the head."""
    works = [linear(group)(case) for group in GROUPS]
    return sum(works, head(case))


def attention(case: Case) -> Work:
    """Keys and values read once."""
    sequences = [(case.context, 1)] * case.rows + ([(case.chunk, case.chunk)] if case.chunk else [])
    shape = case.setup.shape
    return _times(attention_work(Model(case.setup.name, shape), sequences), shape.num_layers)


def rope(case: Case) -> Work:
    """q, k and v read; q written where it was and k and v to their pages."""
    shape = case.setup.shape
    return _rows(case, 2 * sum(map(shape.out_features, QKV)) * shape.num_layers)


def norm(case: Case) -> Work:
    """Residual and update read, residual and input of the next linear written, twice a layer."""

    def layer(case: Case) -> Work:
        return _rows(case, 4 * case.setup.shape.hidden_size)

    return _over_layers(case, QKV, layer) + _over_layers(case, GATE_UP, layer)


def silu(case: Case) -> Work:
    """Gate and up read, their product written."""
    return _over_layers(case, GATE_UP, lambda case: _rows(case, 3 * case.setup.shape.intermediate_size))


def last_silu(case: Case) -> Work:
    """As `silu`, of the last layer alone."""
    return _rows(case.narrow, 3 * case.setup.shape.intermediate_size)


def shrink(*groups: Sequence[int]) -> Callable[[Case], Work]:
    """Live adapters' A of some groups read at their true rank, and a group's input once."""

    def work(case: Case) -> Work:
        def inputs(group: Sequence[int], case: Case) -> Work:
            return Work(ELEMENT * sum(count for _, count in _live(case)) * case.setup.shape.in_features(group[0]))

        targeted = [group for group in groups if _targeted(case, group)]
        read = (_over_layers(case, group, partial(inputs, group)) for group in targeted)
        return sum(read, begun(*groups)(case))

    return work


def begun(*groups: Sequence[int]) -> Callable[[Case], Work]:
    """Live adapters' A of some groups, for a kernel that has their inputs at hand."""
    return _matrices(ModelShape.in_features, groups, _live)


def _matrices(
    width_of: Callable[[ModelShape, int], int],
    groups: Sequence[Sequence[int]],
    adapters: Callable[[Case], list[tuple[int, int]]],
) -> Callable[[Case], Work]:
    def layer(group: Sequence[int], case: Case) -> Work:
        width = sum(width_of(case.setup.shape, module) for module in _targeted(case, group))
        wanted = adapters(case)
        elements = sum(rank * width for rank, _ in wanted)
        return Work(ELEMENT * elements, sum(2 * count * rank * width for rank, count in wanted))

    def work(case: Case) -> Work:
        return sum((_over_layers(case, group, partial(layer, group)) for group in groups), Work(0))

    return work


def expand(*groups: Sequence[int]) -> Callable[[Case], Work]:
    """Live adapters' B of some groups read at their true rank, and outputs added to, but for what linear layers add."""

    def added(group: Sequence[int], case: Case) -> Work:
        width = sum(map(case.setup.shape.out_features, _targeted(case, group)))
        return Work(2 * ELEMENT * width * sum(count for _, count in _rest(case)))

    def work(case: Case) -> Work:
        matrices = _matrices(ModelShape.out_features, groups, _rest)
        return sum((_over_layers(case, group, partial(added, group)) for group in groups), matrices(case))

    return work


def share(*groups: Sequence[int]) -> Callable[[Case], Work]:
    """Live adapters' B of some groups, for a kernel that has their outputs at hand."""
    return _matrices(ModelShape.out_features, groups, _live)


def sampling(case: Case) -> Work:
    """Logits read."""
    return Work(ELEMENT * case.num_logits * case.setup.vocab_size)


def embedding(case: Case) -> Work:
    """Rows read and written."""
    return _rows(case, 2 * case.setup.shape.hidden_size)


def nothing(case: Case) -> Work:  # noqa: ARG001 - as the others
    """What a perfect step would not do."""
    return Work(0)


def _targeted(case: Case, group: Sequence[int]) -> list[int]:
    """The modules of a group that adapters have."""
    return [module for module in group if MODULES[module] in case.setup.targets]


def _live(case: Case) -> list[tuple[int, int]]:
    """Rank and rows of each live adapter."""
    ranks = case.setup.ranks
    return [(ranks[adapter % len(ranks)], count) for adapter, count in case.rows_of_adapters.items()]


def _added(case: Case) -> list[tuple[int, int]]:
    """Of those whose shares linear layers add."""
    return [(rank, count) for rank, count in _live(case) if _is_added(case, count)]


def _rest(case: Case) -> list[tuple[int, int]]:
    """Of the others."""
    return [(rank, count) for rank, count in _live(case) if not _is_added(case, count)]


def _is_added(case: Case, count: int) -> bool:
    return case.num_rows > SPLIT_ROWS and count >= ADDED_ROWS


def _rows(case: Case, elements: int) -> Work:
    return Work(ELEMENT * case.num_rows * elements)


def _over_layers(case: Case, group: Sequence[int], layer: Callable[[Case], Work]) -> Work:
    """Work of a group's layers, of which the last has fewer rows, but for q k v: past its attention."""
    last = case if group == QKV else case.narrow
    return _times(layer(case), case.setup.shape.num_layers - 1) + layer(last)


def _times(work: Work, count: int) -> Work:
    return Work(work.num_bytes * count, work.flops * count)
