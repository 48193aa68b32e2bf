"""What else a step needs: each op checked and timed beside its byte floor and the same in torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.correctness import Refused, check_result
from benchmarks.kernels.floors import Work, tensor_work
from benchmarks.kernels.linears import LAYERS, LOGITS, linear_data
from benchmarks.kernels.lora_case import DTYPE, ROTATION_BYTES
from benchmarks.kernels.sampling import sampling_data
from benchmarks.kernels.shapes import BLOCK_SIZE, MODELS, Model
from benchmarks.kernels.step_data import Data, Device
from benchmarks.kernels.timing import Timing, on_capture_stream, time_calls
from kernels import rope
from kernels.activation import silu_mul
from kernels.norm import add_rms_norm, rms_norm
from kernels.paging import copy_pages, write_kv
from kernels.paging import reference as torch_paging
from kernels.rope import reference as torch_rope

EPSILON = 1e-5
POOL_LAYERS = 32  # of a pool whose pages are copied
MAX_SETS = 256
CALLS = 48  # of one graph


@dataclass(frozen=True)
class StepPoint:
    """An op at one model's widths and one batch."""

    op: str
    model: str
    num_rows: int

    def draw(self, device: Device = "cuda") -> Data:
        """Random data."""
        return OPS[self.op](MODELS[self.model], self.num_rows, device)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.op}, {self.model}, {self.num_rows:,} rows"


def quick_points() -> list[StepPoint]:
    """Each op at one batch."""
    return [StepPoint(op, "llama-3-8b", 64) for op in OPS]


def all_points() -> list[StepPoint]:
    """Each op from one row to a long prompt."""
    return [StepPoint(op, model, rows) for op in OPS for model, rows in SIZES_OF.get(op, SIZES)]


SAMPLED = (("llama-3-8b", 1), ("llama-3-8b", 64), ("llama-3-8b", 256), ("llama-7b", 256))
ADAPTERS = (("llama-3-8b", 41), ("llama-3-8b", 656))  # pages of one adapter of rank 16, and of 16
LINEAR_SIZES = [
    (model, rows) for model in ("llama-7b", "llama-3-8b", "llama-70b/tp8") for rows in (1, 8, 16, 32, 64, 128)
]
SIZES_OF: Mapping[str, Sequence[tuple[str, int]]] = {
    "sample, greedy": SAMPLED,
    "sample, top-p": SAMPLED,
    "copy_pages": ADAPTERS,
    **{f"linear, {layer}": LINEAR_SIZES for layer in (*LAYERS, LOGITS)},
}
VOCABULARIES = {"llama-7b": 32_000, "llama-70b/tp8": 128_256 // 8}
VOCABULARY = 128_256  # of the others
SIZES = (("llama-3-8b", 1), ("llama-3-8b", 64), ("llama-3-8b", 256), ("llama-3-8b", 8192), ("llama-7b", 256))


def measure_step(point: StepPoint, refused: Refused) -> tuple[Work, dict[str, Timing]]:
    """Checks each contender against float64, then times it if it is right."""
    first = point.draw()
    num_sets = max(2, min(MAX_SETS, -(-ROTATION_BYTES // first.work.num_bytes)))
    sets = [first, *(point.draw() for _ in range(num_sets - 1))]
    timings = {}
    for name in first.run:
        with refused.unless_right(f"{name} on {point.name}"):
            data = point.draw()
            right = data.expected()
            with on_capture_stream():
                output = data.seen(data.run[name]())
            check_result(output, right)
            timings[name] = time_calls(list(islice(cycle([data.run[name] for data in sets]), max(num_sets, CALLS))))
    return first.work, timings


def _rms_norm(model: Model, num_rows: int, device: Device) -> Data:
    x, weight = _draw(device, num_rows, model.shape.hidden_size), _draw(device, model.shape.hidden_size)
    run = {
        "ours": lambda: rms_norm(x, weight, EPSILON),
        "torch": lambda: torch.nn.functional.rms_norm(x, weight.shape, weight, EPSILON),
    }
    return Data(run, lambda: _normed(x.double(), weight), tensor_work(x, weight, x))


def _add_rms_norm(model: Model, num_rows: int, device: Device) -> Data:
    hidden, update = _draw(device, 2, num_rows, model.shape.hidden_size)
    weight = _draw(device, model.shape.hidden_size)
    run = {
        "ours": lambda: add_rms_norm(hidden, update, weight, EPSILON),
        "torch": lambda: torch.nn.functional.rms_norm(hidden.add_(update), weight.shape, weight, EPSILON),
    }
    # The residual is rounded before its norm, as in every implementation of the model.
    return Data(run, lambda: _normed((hidden + update).double(), weight), tensor_work(*[hidden] * 3, update, weight))


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + EPSILON).sqrt() * weight.double()


def _silu_mul(model: Model, num_rows: int, device: Device) -> Data:
    gate_up = _draw(device, num_rows, 2 * model.shape.intermediate_size)
    gate, up = gate_up.chunk(2, 1)
    run = {"ours": lambda: silu_mul(gate_up), "torch": lambda: torch.nn.functional.silu(gate) * up}
    return Data(run, lambda: gate.double() * gate.double().sigmoid() * up.double(), tensor_work(gate_up, gate))


def _rotate_and_write(model: Model, num_rows: int, device: Device) -> Data:
    shape = model.shape
    heads: Any = {"num_heads": shape.num_heads, "num_kv_heads": shape.num_kv_heads, "block_size": BLOCK_SIZE}
    qkv = _draw(device, num_rows, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim)
    frequencies = 1e4 ** -(torch.arange(0, shape.head_dim, 2, device=device) / shape.head_dim)
    turns = rope.angles(torch.arange(num_rows, device=device), frequencies, 1.0, DTYPE)
    pages, slots = pool(model, num_rows, device)

    def right() -> Tensor:
        turned = qkv.unflatten(1, (-1, shape.head_dim)).double()
        half = turned.roll(shape.head_dim // 2, 2)
        rotated = turned * turns[0].double() + half * turns[1].double()
        keys, values = rotated[:, shape.num_heads : -shape.num_kv_heads], turned[:, -shape.num_kv_heads :]
        return torch.cat((rotated[:, : shape.num_heads], keys, values), 1)

    def seen(query: Tensor) -> Tensor:
        rows = pages.view(-1, 2, BLOCK_SIZE, shape.num_kv_heads, shape.head_dim)
        written = rows[slots // BLOCK_SIZE, :, slots % BLOCK_SIZE].flatten(1, 2)
        return torch.cat((query, written), 1)

    run = {
        "ours": lambda: rope.rotate_and_write(qkv, turns, pages, slots, **heads),
        "torch": lambda: torch_rope.rotate_and_write(qkv, turns, pages, slots, **heads),
    }
    return Data(run, right, tensor_work(qkv, qkv, *turns, slots), seen)


def _write_kv(model: Model, num_rows: int, device: Device) -> Data:
    key, value = _draw(device, 2, num_rows, model.shape.num_kv_heads, model.shape.head_dim)
    pages, slots = pool(model, num_rows, device)

    def seen(_: Tensor | None) -> Tensor:
        rows = pages.view(-1, 2, BLOCK_SIZE, *key.shape[1:])
        return rows[slots // BLOCK_SIZE, :, slots % BLOCK_SIZE]  # [num_rows, 2, num_kv_heads, head_dim]

    run = {
        "ours": lambda: write_kv(pages, key, value, slots, BLOCK_SIZE),
        "torch": lambda: torch_paging.write_kv(pages, key, value, slots, BLOCK_SIZE),
    }
    return Data(run, lambda: torch.stack((key, value), 1).double(), tensor_work(key, value, key, value, slots), seen)


def _copy_pages(model: Model, num_pages: int, device: Device) -> Data:
    """A row is a page here, of every layer."""
    source = _draw(device, POOL_LAYERS, num_pages, model.geometry.page_elements)
    pages = torch.zeros(POOL_LAYERS, 2 * num_pages, model.geometry.page_elements, dtype=DTYPE, device=device)
    page_ids = torch.randperm(2 * num_pages, device=device)[:num_pages]
    run = {
        "ours": lambda: copy_pages(pages, page_ids, source),
        "torch": lambda: torch_paging.copy_pages(pages, page_ids, source),
    }
    return Data(run, source.double, tensor_work(source, source, page_ids), lambda _: pages[:, page_ids])


def _sample_greedy(model: Model, num_rows: int, device: Device) -> Data:
    return sampling_data(VOCABULARIES.get(model.name, VOCABULARY), num_rows, device, greedy=True)


def _sample_top_p(model: Model, num_rows: int, device: Device) -> Data:
    return sampling_data(VOCABULARIES.get(model.name, VOCABULARY), num_rows, device, greedy=False)


def _linear(layer: str) -> Callable[[Model, int, Device], Data]:
    return lambda model, num_rows, device: linear_data(
        model, layer, VOCABULARIES.get(model.name, VOCABULARY), num_rows, device
    )


def pool(model: Model, num_rows: int, device: Device) -> tuple[Tensor, Tensor]:
    """Pages with room for some times the rows, and the rows' slots, anywhere in them."""
    num_pages = -(-num_rows // BLOCK_SIZE) * 4
    pages = torch.zeros(num_pages, model.geometry.page_elements, dtype=DTYPE, device=device)
    return pages, torch.randperm(num_pages * BLOCK_SIZE, device=device)[:num_rows].contiguous()


def _draw(device: Device, *sizes: int) -> Tensor:
    return torch.randn(*sizes, dtype=DTYPE, device=device)


OPS: Mapping[str, Callable[[Model, int, Device], Data]] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rotate_and_write": _rotate_and_write,
    "silu_mul": _silu_mul,
    "write_kv": _write_kv,
    "copy_pages": _copy_pages,
    "sample, greedy": _sample_greedy,
    "sample, top-p": _sample_top_p,
    **{f"linear, {layer}": _linear(layer) for layer in (*LAYERS, LOGITS)},
}
