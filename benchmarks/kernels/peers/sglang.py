"""SGLang's LoRA ops: its chunked SGMV backend, and its plan-driven Triton backend."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.contenders import InTurn, Run
from benchmarks.kernels.lora_case import LoraCase
from benchmarks.kernels.peers.stand_ins import PYDANTIC, Settings, Struct, load, loaded, version

OPS = "sglang.kernels.ops.lora"
Weights = tuple[Tensor, Tensor]  # a group's: [slots, modules * max_rank, in], [slots, sum of out, max_rank]


class SglangCsgmv(InTurn):
    """Rows of an adapter cut in chunks; shrink, then expand onto the output, for each group.

    Grids are as large as the batch's own segments, where its decode graphs take the largest batch's; `split_k` is
    allowed where its opt-in policy takes it. Chunks have the default 16 rows: its larger tiers, which are off by
    default, were slower at every point, decode and prefill (0.3 to 1.0 of the speed).
    """

    name = "sglang_csgmv"
    CHUNK = 16

    def __init__(self, folder: Path) -> None:
        self.version = version(folder, "sglang")
        _load_ops(folder)
        self.shrink = load(f"{OPS}.dense.chunked_sgmv_shrink").chunked_sgmv_lora_shrink_forward
        self.expand = load(f"{OPS}.dense.chunked_sgmv_expand").chunked_sgmv_lora_expand_forward
        self.batch_info = load("sglang.srt.lora.utils").LoRABatchInfo

    def prepare(self, case: LoraCase) -> Run:
        """Weights in slots, segments of the batch."""
        weights = _stacked(case)
        batch = self._segments(case)
        offsets = [_offsets(case, group) for group in case.model.groups]
        on_host = [torch.tensor(own) for own in offsets]
        on_device = [torch.tensor(own, dtype=torch.int32, device=case.device) for own in offsets]

        def add(layer: int, index: int) -> None:
            data, group = case.layers[layer], case.model.groups[index]
            a, b = weights[layer][index]
            bridge = self.shrink(x=data.inputs[index], weights=a, batch_info=batch, num_slices=len(group))
            self.expand(
                x=bridge,
                weights=b,
                batch_info=batch,
                slice_offsets=on_device[index],
                slice_offsets_cpu=on_host[index],
                max_slice_size=max(case.model.widths(group)),
                base_output=data.outputs[index],
            )

        return add

    def _segments(self, case: LoraCase) -> Any:
        chunk, num_rows = self.CHUNK, case.point.num_rows
        owners, ends = [], [0]
        for adapter, count in enumerate(case.rows):
            for begin in range(0, count, chunk):
                owners.append(adapter)
                ends.append(ends[-1] + min(chunk, count - begin))

        def on_device(values: object, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=case.device)

        return self.batch_info(
            use_cuda_graph=False,
            bs=num_rows,
            num_segments=len(owners),
            seg_indptr=on_device(ends),
            weight_indices=on_device(owners),
            lora_ranks=on_device(case.ranks),
            scalings=on_device(case.scales, torch.float32),
            max_len=chunk,
            seg_lens=None,
            permutation=torch.arange(num_rows, dtype=torch.int32, device=case.device),
        )


class SglangPlanned:
    """Its `triton_v2` backend: its plan table for the GPU chooses the kernels of shrink and expand of each group.

    There are as many slots as live adapters, of the largest rank. Routes are made before. The table's overlap with the
    base linear is used where there is one (`apply`); alone, the two ops run one after the other.
    """

    name = "sglang_triton_v2"

    def __init__(self, folder: Path) -> None:
        self.version = version(folder, "sglang")
        _load_ops(folder)
        self.runner_class = load("sglang.srt.lora.dense.runner").DenseLoraRunner
        self.workspace_class = load("sglang.srt.lora.workspace").LoraWorkspace
        self.phase = load("sglang.srt.lora.utils").Phase
        self.kind = load("sglang.srt.lora.dense.plan").DenseLoraKind

    def prepare(self, case: LoraCase) -> Run:
        """Weights in slots, the batch bound to a runner."""
        runner, weights, offsets = self._bound(case)

        def add(layer: int, index: int) -> None:
            data, (a, b) = case.layers[layer], weights[layer][index]
            plan = self._plan(runner, a, b, case.point.num_rows)
            bridge = runner.run_a(data.inputs[index], a, stack=len(offsets[index]) - 1, plan=plan)
            runner.run_b(bridge, b, data.outputs[index], offsets=offsets[index], plan=plan)

        return add

    def beside(self, case: LoraCase, linear: Run) -> Run:
        """With the overlap that the table says."""
        runner, weights, offsets = self._bound(case)

        def run(layer: int, index: int) -> None:
            data, (a, b) = case.layers[layer], weights[layer][index]

            def base() -> Tensor:
                linear(layer, index)
                return data.outputs[index]

            plan = self._plan(runner, a, b, case.point.num_rows)
            runner.apply(data.inputs[index], base, plan, a=a, b=b, offsets=offsets[index])

        return run

    def _bound(self, case: LoraCase) -> tuple[Any, list[list[Weights]], list[tuple[int, ...]]]:
        return self._runner(case), _stacked(case), [tuple(_offsets(case, group)) for group in case.model.groups]

    def _runner(self, case: LoraCase) -> Any:
        """One that is bound to the batch."""
        num_slots = len(case.rows)
        runner = self.runner_class(self.workspace_class(), max_loras=num_slots, device=case.device)
        slots = torch.repeat_interleave(torch.arange(num_slots), torch.tensor(case.rows))
        runner.begin_batch(
            token_slots=slots.int().to(case.device),
            lora_ranks=torch.tensor(case.ranks, dtype=torch.int32, device=case.device),
            scalings=torch.tensor(case.scales, dtype=torch.float32, device=case.device),
            num_tokens=case.point.num_rows,
            phase=self.phase.PREFILL if case.point.phase == "prefill" else self.phase.DECODE,
            graph_mode=True,
        )
        return runner

    def _plan(self, runner: Any, a: Tensor, b: Tensor, num_rows: int) -> Any:
        """What its table says."""
        return runner.plan_for(self.kind.LINEAR, b.shape[-1], a.shape[-1], b.shape[1], num_tokens=num_rows)


def _stacked(case: LoraCase) -> list[list[Weights]]:
    """By layer and group; in a slot of A the modules are one after the other at the adapter's true rank."""
    weights = []
    for data in case.layers:
        groups = []
        for group in case.model.groups:
            a = data.a[group[0]].new_zeros(len(case.ranks), len(group) * case.max_rank, case.model.in_features(group))
            for rank in set(case.ranks):
                own = [adapter for adapter, other in enumerate(case.ranks) if other == rank]
                for place, module in enumerate(group):
                    a[own, place * rank : (place + 1) * rank] = data.a[module][own, :rank]
            groups.append((a, torch.cat([data.b[module] for module in group], 1)))
        weights.append(groups)
    return weights


def _offsets(case: LoraCase, group: tuple[int, ...]) -> list[int]:
    ends = [0]
    for width in case.model.widths(group):
        ends.append(ends[-1] + width)
    return ends


@cache
def _load_ops(folder: Path) -> None:
    def needs_a_compiler(*_: object, **__: object) -> None:
        raise NotImplementedError("built by a C++ compiler at run time; the Triton builder is used")

    nothing: dict[str, object] = {"AutoConfig": object, "ForwardBatch": object}
    modules: dict[str, dict[str, object]] = {
        "msgspec": {"Struct": Struct},
        "pydantic": PYDANTIC,
        "sglang.kernels.jit": {},
        "sglang.kernels.jit.utils": {"is_arch_support_pdl": lambda: torch.cuda.get_device_capability()[0] >= 9},
        f"{OPS}.moe.virtual_experts": {"_align_block_size_jit": needs_a_compiler},
        "sglang.srt.environ": {"envs": Settings(SGLANG_ENABLE_LORA_CSGMV_SPLIT_K=True)},
        "sglang.srt.model_executor": {},
        "sglang.srt.model_executor.forward_batch_info": nothing,
        "sglang.srt.utils": {
            # Its own cache saves launch time, which a graph has none of.
            "cached_triton_kernel": lambda _: lambda kernel: kernel,
            "get_device_name": torch.cuda.get_device_name,
        },
        "sglang.srt.utils.hf_transformers_utils": nothing,
    }
    packages = (
        "sglang",
        "sglang.kernels",
        "sglang.kernels.ops",
        OPS,
        f"{OPS}.common",
        f"{OPS}.dense",
        f"{OPS}.moe",
        "sglang.srt",
        "sglang.srt.lora",
        "sglang.srt.lora.dense",
    )
    with loaded(folder, packages, modules):
        # Of its three route builders one needs a C++ compiler; the Triton one for large batches serves in its place.
        load(f"{OPS}.common.routing")._LARGE_ROUTE_MIN_PAIRS = 513  # noqa: SLF001
        for name in ("chunked_sgmv_shrink", "chunked_sgmv_expand"):
            load(f"{OPS}.dense.{name}")
        for name in ("dense.runner", "workspace", "utils"):
            load(f"sglang.srt.lora.{name}")
