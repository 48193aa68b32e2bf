"""A whole layer but its attention, as the engine runs it: in turn the four linears, each with what comes after it."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.kernels.correctness import check_result
from benchmarks.kernels.lora_case import DTYPE, LoraCase
from benchmarks.kernels.shapes import BLOCK_SIZE
from benchmarks.kernels.step import EPSILON, pool
from benchmarks.kernels.timing import on_capture_stream
from kernels import rope
from kernels.activation import linear_silu_mul, silu_mul
from kernels.linear import linear
from kernels.lora import LoraDelta, linear_and_shrink, shrink
from kernels.norm import add_rms_norm
from kernels.rope import rotate_and_write
from worker.memory.layout import GROUPS

# Makes the outputs of one layer's group, by its place in GROUPS; returns what is still to be added to them. A contender
# that runs beside the linear leaves nothing.
Begin = Callable[[int, int], LoraDelta | None]

_GATE_UP = 2  # in GROUPS
BASE_LAYERS = 2  # of a model of some size, each far more than a cache holds
# Of what a norm gives: what follows then stays below 4, where one rounding is less than the tolerance for data of unit
# size, also where a sum cancels.
GAIN = 0.25


class LayerChain:
    """Layers that follow each other: q k v and rotation, o and norm, gate and up and SiLU, down and the next's norm.

    Layers have their own weights and adapters, and take turns in the same memory for rows, as the engine's do. In the
    place of attention there is nothing: o's inputs stay what they are.

    Args:
        case: the adapters; its layers' inputs and outputs become the chain's.
    """

    def __init__(self, case: LoraCase) -> None:
        model, shape, num_rows = case.model, case.model.shape, case.point.num_rows
        self.case = case
        self.num_adapted = len(model.groups)
        assert model.groups == GROUPS[: self.num_adapted], "adapters target the first of a layer's groups"
        sizes = [(model.in_features(group), sum(model.widths(group))) for group in GROUPS]
        self._first = [self._draw(num_rows, width) * GAIN for width, _ in sizes]
        self._first_hidden = self._draw(num_rows, shape.hidden_size)
        self.inputs = [first.clone() for first in self._first]
        self.hidden = self._first_hidden.clone()
        self.outputs = [self._draw(num_rows, width) for _, width in sizes]
        case.share_rows(self.inputs[: self.num_adapted], self.outputs[: self.num_adapted])
        self._weights = [
            [self._draw(width, width_in) * width_in**-0.5 for width_in, width in sizes] for _ in range(BASE_LAYERS)
        ]
        self._norm = torch.full((shape.hidden_size,), GAIN, dtype=DTYPE, device=case.device)
        frequencies = 1e4 ** -(torch.arange(0, shape.head_dim, 2, device=case.device) / shape.head_dim)
        self._turns = rope.angles(torch.arange(num_rows, device=case.device), frequencies, 1.0, DTYPE)
        self._pages, self._slots = pool(model, num_rows, case.device)
        self._query = self.outputs[0]

    def run(self, layer: int, begin: Begin) -> None:
        """One layer, from the inputs of q k v to those of the next layer's; `begin` makes adapters' groups."""
        for index in range(len(GROUPS)):
            if index < self.num_adapted:
                self._end(index, begin(layer, index))
            else:
                self._run_base(layer, index)

    def base(self, layer: int) -> None:
        """As `run`, without adapters."""
        for index in range(len(GROUPS)):
            self._run_base(layer, index)

    def _run_base(self, layer: int, index: int) -> None:
        """As the engine: a linear and what comes after it, of gate and up in one."""
        if index == _GATE_UP:
            gate_up, weight = self.outputs[_GATE_UP], self._weight(layer, _GATE_UP)
            linear_silu_mul(self.inputs[_GATE_UP], weight, gate_up, self.inputs[_GATE_UP + 1])
        else:
            self.linear(layer, index)
            self._end(index, None)

    def linears(self, layer: int) -> None:
        """One layer's linears alone."""
        for index in range(len(GROUPS)):
            self.linear(layer, index)

    def linear(self, layer: int, index: int) -> None:
        """Writes a group's outputs with one matrix product."""
        linear(self.inputs[index], self._weight(layer, index), self.outputs[index], chained=True)

    def ours(self, layer: int, index: int) -> LoraDelta | None:
        """As the engine: the linear and a shrink, which leaves the rest to what comes after."""
        linear_of = (self.inputs[index], self._weight(layer, index), self.outputs[index], None)
        adapters = (self.case.pages[layer], self.case.batch)
        return linear_and_shrink(*linear_of, self._parts(index), *adapters, layer=layer, modules=GROUPS[index])

    def shrink(self, layer: int, index: int) -> LoraDelta | None:
        """A group's shrink alone."""
        adapters = (self.case.pages[layer], self.case.batch)
        return shrink(self._parts(index), self.inputs[index], *adapters, layer=layer, modules=GROUPS[index])

    def restart(self) -> None:
        """Makes the rows what they were at first."""
        self.hidden.copy_(self._first_hidden)
        for own, first in zip(self.inputs, self._first, strict=True):
            own.copy_(first)

    def check_linears(self) -> None:
        """Compares the linears with float64.

        Raises:
            WrongAnswer: with how far one is.
        """
        self.restart()
        for layer, weights in enumerate(self._weights):
            with on_capture_stream():
                self.linears(layer)
            for x, weight, output in zip(self.inputs, weights, self.outputs, strict=True):
                check_result(output, x.double() @ weight.double().T)

    def check(self, begin: Begin, trusted: Begin) -> None:
        """Compares what the first and the last layer leave with what they leave where all before is trusted.

        Raises:
            WrongAnswer: with how far it is.
        """
        for layer in (0, self.case.num_layers - 1):
            right = self._left_by(layer, trusted)
            for actual, expected in zip(self._left_by(layer, begin), right, strict=True):
                check_result(actual, expected.double())

    def _left_by(self, layer: int, begin: Begin) -> list[Tensor]:
        """Queries, keys and values; gate times up; the hidden state; the next layer's inputs."""
        self.restart()
        for stale in (*self.outputs, self.inputs[2], self.inputs[3], self._pages):
            stale.fill_(torch.nan)
        with on_capture_stream():
            self.run(layer, begin)
        shape, at = self.case.model.shape, self._slots
        tokens = self._pages.view(-1, 2, BLOCK_SIZE, shape.num_kv_heads * shape.head_dim)
        written = tokens[at // BLOCK_SIZE, :, at % BLOCK_SIZE].flatten(1)
        left = [self._query.flatten(1), written, self.inputs[3], self.hidden, self.inputs[0]]
        return [tensor.clone() for tensor in left]

    def _weight(self, layer: int, index: int) -> Tensor:
        weight: Tensor = self._weights[layer % BASE_LAYERS][index]
        return weight

    def _parts(self, index: int) -> tuple[Tensor, ...]:
        """The modules' columns of a group's outputs."""
        parts: tuple[Tensor, ...] = self.outputs[index].split(self.case.model.widths(GROUPS[index]), 1)
        return parts

    def _end(self, index: int, delta: LoraDelta | None) -> None:
        """What the engine does to a group's outputs, with what is still to be added to them."""
        shape, outputs = self.case.model.shape, self.outputs[index]
        if index == 0:
            self._query = rotate_and_write(
                outputs,
                self._turns,
                self._pages,
                self._slots,
                num_heads=shape.num_heads,
                num_kv_heads=shape.num_kv_heads,
                block_size=BLOCK_SIZE,
                delta=delta,
            )
        elif index == _GATE_UP:
            silu_mul(outputs, self.inputs[3], delta)
        else:
            add_rms_norm(self.hidden, outputs, self._norm, EPSILON, self.inputs[(index + 1) % len(GROUPS)], delta)

    def _draw(self, *sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=DTYPE, device=self.case.device)
