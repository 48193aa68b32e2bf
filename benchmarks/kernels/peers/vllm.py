"""vLLM's LoRA ops, called as its Punica wrapper calls them."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from benchmarks.kernels.contenders import InTurn, Run, scaled_b
from benchmarks.kernels.lora_case import LoraCase
from benchmarks.kernels.peers.stand_ins import load, loaded, version

OPS = "vllm.lora.ops.triton_ops"
Slots = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # a group's modules: [slots, 1, rank, in], [slots, 1, out, rank]
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what its configuration takes


class Vllm(InTurn):
    """Shrink into a zeroed fp32 buffer, then expand onto the output, for each group.

    `max_loras` is the number of live adapters rounded up to a power of two, `max_lora_rank` the least that takes the
    largest rank, and `specialize_active_lora` is on, so that no launch is sized by slots that nobody uses. Metadata is
    made before. No tuned tile files are in its wheel, so its defaults are used.
    """

    def __init__(self, folder: Path, *, dual_stream: bool = False) -> None:
        self.name = "vllm_pdl" if dual_stream else "vllm"
        self.dual_stream = dual_stream
        self.version = version(folder, "vllm")
        self.envs = _load_ops(folder)
        self.shrink = load(f"{OPS}.lora_shrink_op").lora_shrink
        self.expand = load(f"{OPS}.lora_expand_op").lora_expand
        self.tables = load(f"{OPS}.utils")
        self.metadata = load(f"{OPS}.lora_kernel_metadata").LoRAKernelMeta

    def prepare(self, case: LoraCase) -> Run:
        """Shrinks and expands in place."""
        weights, meta_args = self._weights(case), self._meta_args(case)

        def add(layer: int, index: int) -> None:
            data = case.layers[layer]
            self._add(data.outputs[index], data.inputs[index], weights[layer][index], meta_args, add_inputs=True)

        return add

    def beside(self, case: LoraCase, linear: Run) -> Run | None:
        """In turn; or with its dual stream, LoRA into a zeroed tensor on a side stream, which is then added."""
        if not self.dual_stream:
            return super().beside(case, linear)
        weights, meta_args = self._weights(case), self._meta_args(case)
        side, ready, done = torch.cuda.Stream(), torch.cuda.Event(), torch.cuda.Event()

        def run(layer: int, index: int) -> None:
            data = case.layers[layer]
            ready.record()
            linear(layer, index)
            with torch.cuda.stream(side):
                ready.wait()
                delta = torch.zeros_like(data.outputs[index])
                self._add(delta, data.inputs[index], weights[layer][index], meta_args, add_inputs=False)
                done.record()
            done.wait()
            data.outputs[index].add_(delta)

        return run

    def _add(self, output: Tensor, x: Tensor, weights: Slots, meta_args: Sequence[Any], *, add_inputs: bool) -> None:
        a, b = weights
        self.envs.VLLM_LORA_ENABLE_DUAL_STREAM = self.dual_stream
        bridge = torch.empty(len(a), x.shape[0], b[0].shape[-1], dtype=torch.float32, device=x.device)
        self.shrink(x, a, bridge, *meta_args, 1.0)
        self.expand(bridge, b, output, *meta_args, offset_start=0, add_inputs=add_inputs)

    def _weights(self, case: LoraCase) -> list[list[Slots]]:
        """By layer and group: slots of the largest rank, scales folded into B as at loading."""
        # Its tables of weights go by address, and addresses of an earlier case may be in use again.
        for table in (self.tables._LORA_A_PTR_DICT, self.tables._LORA_B_PTR_DICT):  # noqa: SLF001
            table.clear()
        slots = max_loras(case)
        rank = next(rank for rank in MAX_RANKS if rank >= case.max_rank)

        def slotted(matrix: Tensor, *size: int) -> Tensor:
            if matrix.shape != size:
                padded = matrix.new_zeros(size)
                padded[tuple(slice(0, used) for used in matrix.shape)] = matrix
                matrix = padded
            return matrix.unsqueeze(1)

        weights = []
        for layer, data in enumerate(case.layers):
            scaled = scaled_b(case, layer)
            weights.append(
                [
                    (
                        tuple(slotted(data.a[m], slots, rank, data.a[m].shape[2]) for m in group),
                        tuple(slotted(scaled[m], slots, scaled[m].shape[1], rank) for m in group),
                    )
                    for group in case.model.groups
                ]
            )
        return weights

    def _meta_args(self, case: LoraCase) -> Sequence[Any]:
        """The batch's, as its ops take them."""
        slots = max_loras(case)
        counts = sorted({2**power for power in range(slots.bit_length())} | {slots + 1})
        mapping = torch.repeat_interleave(torch.arange(len(case.rows)), torch.tensor(case.rows)).int().to(case.device)
        meta = self.metadata.make(slots, case.point.num_rows, device=case.device, captured_lora_counts=counts)
        meta.prepare_tensors(mapping)
        args: Sequence[Any] = meta.meta_args(case.point.num_rows, specialize_active_lora=True)
        return args


def max_loras(case: LoraCase) -> int:
    """Its slots: live adapters rounded up to a power of two."""
    return 1 << (len(case.rows) - 1).bit_length()


@cache
def _load_ops(folder: Path) -> Any:
    logger = logging.getLogger("vllm")
    for level in ("warning_once", "info_once"):
        setattr(logger, level, logger.debug)

    def unavailable(**_: object) -> None:
        raise AttributeError("not registered: the ops are called as functions")

    packages = ("vllm", "vllm.lora", "vllm.lora.ops", OPS)
    modules: dict[str, dict[str, object]] = {
        "vllm.envs": {
            "VLLM_BATCH_INVARIANT": False,
            "VLLM_LORA_DISABLE_PDL": False,
            "VLLM_LORA_ENABLE_DUAL_STREAM": False,
            "VLLM_TUNED_CONFIG_FOLDER": None,
        },
        "vllm.logger": {"init_logger": lambda _: logger},
        "vllm.platforms": {"current_platform": Platform()},
        "vllm.triton_utils": {"tl": tl, "triton": triton},
        "vllm.utils": {},
        "vllm.utils.math_utils": {"next_power_of_2": triton.next_power_of_2},
        "vllm.utils.torch_utils": {
            "async_tensor_h2d": lambda data, dtype, device: torch.tensor(data, dtype=dtype, device=device),
            "direct_register_custom_op": unavailable,
        },
    }
    with loaded(folder, packages, modules):
        for op in ("lora_shrink_op", "lora_expand_op", "lora_kernel_metadata"):
            load(f"{OPS}.{op}")
        return load("vllm.envs")


class Platform:
    """What its ops ask of the machine."""

    def is_cuda(self) -> bool:
        """Whether there is a GPU."""
        return torch.cuda.is_available()

    def has_device_capability(self, capability: int) -> bool:
        """Whether the GPU has at least this, written as 90 for 9.0."""
        return _capability() >= capability

    def is_device_capability(self, capability: int) -> bool:
        """Whether the GPU has exactly this."""
        return _capability() == capability


def _capability() -> int:
    if not torch.cuda.is_available():
        return 0
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
