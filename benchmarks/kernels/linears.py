"""Linear layers: the base model's products of a step."""

from collections.abc import Mapping

import torch

from benchmarks.kernels.floors import Work, tensor_work
from benchmarks.kernels.lora_case import DTYPE
from benchmarks.kernels.shapes import Model
from benchmarks.kernels.step_data import Data, Device
from kernels.linear import linear
from worker.memory.layout import GROUPS

LAYERS: Mapping[str, int] = {"q k v": 0, "o": 1, "gate up": 2, "down": 3}  # of a model, by their place in `GROUPS`
LOGITS = "logits"
DEVIATION = 0.02  # of weights


def linear_data(model: Model, layer: str, vocab: int, num_rows: int, device: Device) -> Data:
    """One of a model's linear layers, or what gives the logits."""
    if layer == LOGITS:
        in_features, out_features = model.shape.hidden_size, vocab
    else:
        group = GROUPS[LAYERS[layer]]
        in_features, out_features = model.in_features(group), sum(model.widths(group))
    x = torch.randn(num_rows, in_features, dtype=DTYPE, device=device)
    weight = DEVIATION * torch.randn(out_features, in_features, dtype=DTYPE, device=device)
    out = torch.empty(num_rows, out_features, dtype=DTYPE, device=device)
    run = {
        "ours": lambda: linear(x, weight, out, chained=True),
        "torch": lambda: torch.mm(x, weight.t(), out=out),
    }
    work = tensor_work(x, weight, out) + Work(0, 2 * num_rows * weight.numel())
    return Data(run, lambda: x.double() @ weight.double().t(), work)
