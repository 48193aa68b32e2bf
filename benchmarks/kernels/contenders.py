"""Who is timed on a LoRA point: this project's MBGMM, plain torch, and peers' ops where they are installed."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.kernels.lora_case import LoraCase
from kernels.lora import mbgmm

Run = Callable[[int, int], None]  # on one layer and one of its groups, in place


class Contender(Protocol):
    """One way to add LoRA."""

    @property
    def name(self) -> str:
        """What figures call it."""
        ...

    def prepare(self, case: LoraCase) -> Run | None:
        """Adds LoRA to a group's outputs; None if it cannot run.

        Weights and metadata are laid out as its engine has them before a step's first layer.
        """
        ...

    def beside(self, case: LoraCase, linear: Run) -> Run | None:
        """Runs a group's base linear, which writes its outputs, and adds LoRA, with what overlap its engine has."""
        ...


class InTurn:
    """Overlaps nothing: the base linear, then LoRA."""

    def prepare(self, case: LoraCase) -> Run | None:
        """As `Contender.prepare`."""
        raise NotImplementedError

    def beside(self, case: LoraCase, linear: Run) -> Run | None:
        """One after the other."""
        add = self.prepare(case)
        if add is None:
            return None

        def run(layer: int, group: int) -> None:
            linear(layer, group)
            add(layer, group)

        return run


class Ours(InTurn):
    """MBGMM over the page pool."""

    name = "ours"

    def prepare(self, case: LoraCase) -> Run:
        """Needs nothing more than the case's pages and tables."""

        def add(layer: int, index: int) -> None:
            data, group = case.layers[layer], case.model.groups[index]
            parts = data.outputs[index].split(case.model.widths(group), 1)
            mbgmm(parts, data.inputs[index], case.pages[layer], case.batch, layer=layer, modules=group)

        return add


class TorchLoop(InTurn):
    """A loop over adapters, two matrix products each, at their true rank."""

    name = "torch_loop"

    MAX_ADAPTERS = 16  # a graph of thousands of launches a layer says no more

    def prepare(self, case: LoraCase) -> Run | None:
        """Needs nothing but the plain tensors."""
        if len(case.ranks) > self.MAX_ADAPTERS:
            return None

        def add(layer: int, index: int) -> None:
            data, group = case.layers[layer], case.model.groups[index]
            x, parts = data.inputs[index], data.outputs[index].split(case.model.widths(group), 1)
            for module, part in zip(group, parts, strict=True):
                for adapter, rank in enumerate(case.ranks):
                    own = slice(case.starts[adapter], case.starts[adapter + 1])
                    bridge = x[own] @ data.a[module][adapter, :rank].T
                    part[own].addmm_(bridge, data.b[module][adapter, :, :rank].T, alpha=case.scales[adapter])

        return add


class PaddedBmm(InTurn):
    """Rows padded to the longest of any adapter, ranks to the largest, and two batched matrix products a module."""

    name = "padded_bmm"
    MAX_BYTES = 8 << 30  # of its largest intermediate

    def prepare(self, case: LoraCase) -> Run | None:
        """Scales are folded into B; None if padding takes too much memory."""
        num_live, longest = len(case.rows), max(case.rows)
        widest = max(case.model.shape.out_features(module) for module in case.model.modules)
        if num_live * longest * widest * 2 > self.MAX_BYTES:
            return None
        padded = torch.zeros(num_live, longest, dtype=torch.int64)
        places = []
        for adapter, count in enumerate(case.rows):
            padded[adapter, :count] = torch.arange(count) + case.starts[adapter]
            places.append(torch.arange(count) + adapter * longest)
        gather, scatter = padded.flatten().to(case.device), torch.cat(places).to(case.device)
        scaled = [scaled_b(case, layer) for layer in range(case.num_layers)]

        def add(layer: int, index: int) -> None:
            data, group = case.layers[layer], case.model.groups[index]
            rows = data.inputs[index][gather].view(num_live, longest, -1)
            parts = data.outputs[index].split(case.model.widths(group), 1)
            for module, part in zip(group, parts, strict=True):
                bridge = torch.bmm(rows, data.a[module].transpose(1, 2))
                part.add_(torch.bmm(bridge, scaled[layer][module].transpose(1, 2)).flatten(0, 1)[scatter])

        return add


def scaled_b(case: LoraCase, layer: int) -> dict[int, Tensor]:
    """B times scale: exact, as scales are powers of two."""
    scales = torch.tensor(case.scales, device=case.device)[:, None, None]
    return {module: (b * scales).to(b.dtype) for module, b in case.layers[layer].b.items()}
