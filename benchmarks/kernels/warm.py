"""Compiles a run's kernels before it, in as many processes as there are processors, which share Triton's cache on disk.

Points that need the same kernels are warmed up once: a contender's kernels depend on what `_kernels_of` says. What it
misses is compiled when it is measured, at the cost of time and of nothing else.
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.kernels import lora_layer
from benchmarks.kernels.attention import AttentionCase, AttentionPoint
from benchmarks.kernels.contenders import Contender, Ours
from benchmarks.kernels.layer_chain import LayerChain
from benchmarks.kernels.lora_case import LoraCase, LoraPoint, layout_of
from benchmarks.kernels.shapes import MODELS
from benchmarks.kernels.step import StepPoint
from kernels.activation.kernel.hopper import pays as multiplies_whole
from kernels.lora.kernel.delta import EARLY_ROWS, most_rows
from kernels.lora.kernel.hopper import may_shrink_apart, pays_apart
from kernels.lora.kernel.tiling import FEW_ROWS, SHRUNK_FEW

WARM_UP_S = 80  # at most; what is not compiled by then is when it is measured
PROCESSORS = 132  # of an H200
MAX_ADAPTERS = 32  # of a peer's warm-up: no kernel of theirs is compiled for how many there are beyond
Point = LoraPoint | AttentionPoint | StepPoint
Task = tuple[str, Point, Path | None]


def contenders(peers: Path | None) -> list[Contender]:
    """Ours, and the peers whose files are there."""
    if peers is None:
        return [Ours()]
    from benchmarks.kernels.peers.sglang import SglangCsgmv, SglangPlanned  # noqa: PLC0415 - they need a peer's files
    from benchmarks.kernels.peers.vllm import Vllm  # noqa: PLC0415

    return [Ours(), Vllm(peers), Vllm(peers, dual_stream=True), SglangCsgmv(peers), SglangPlanned(peers)]


def warm_up(points: Sequence[Point], names: Sequence[str], peers: Path | None) -> list[str]:
    """Runs what points need once, for the contenders of these names.

    Returns:
        What failed; the run itself meets it again.
    """
    tasks = tasks_of(points, names, peers)
    processes = max(1, min(len(tasks), (os.cpu_count() or 2) - 1))
    failures = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_run, task) for task in tasks]
        try:
            failures = [failure for done in as_completed(running, WARM_UP_S) if (failure := done.result())]
        except (TimeoutError, BrokenProcessPool) as stopped:
            failures.append(f"stopped: {stopped!r}")
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
    return failures


def tasks_of(points: Sequence[Point], names: Sequence[str], peers: Path | None) -> list[Task]:
    """One for each set of kernels; ours first, as they take longest to compile."""
    tasks: dict[tuple[object, ...], Task] = {}
    for name in names:
        for point in points:
            if isinstance(point, LoraPoint):
                tasks.setdefault((name, *_kernels_of(name, point)), (name, _smaller(name, point), peers))
            elif name == "ours":
                tasks.setdefault((point,), (name, point, None))
    return list(tasks.values())


def _kernels_of(name: str, point: LoraPoint) -> tuple[object, ...]:
    rows, live, rank = point.num_rows, len(point.rows), max(point.ranks)
    match name:
        case "ours":
            model = MODELS[point.model]
            pages = layout_of(model, rank).num_pages(model.geometry)
            # Triton compiles for whether a number is 1 and whether 16 divides it.
            numbers = (live == 1, live % 16 == 0, pages == 1, pages % 16 == 0)
            borders = tuple(rows > border for border in (FEW_ROWS, EARLY_ROWS, *SHRUNK_FEW, most_rows(rank)))
            apart = tuple(
                may_shrink_apart(rows, rank, is_decode=point.phase == "decode")
                and pays_apart(rows, model.in_features(group), sum(model.widths(group)), len(group), PROCESSORS)
                for group in model.groups
            )
            gated = multiplies_whole(rows, model.shape.hidden_size, model.shape.intermediate_size, PROCESSORS)
            return point.model, rank, live > 64, live > 512, point.phase, borders, apart, gated, numbers
        case "vllm" | "vllm_pdl":
            return point.model == "llama-7b", min(rank, 32), rows == 1, rows % 16 == 0, rows < 128
        case "sglang_csgmv":
            return point.model, rank
        case _:
            return point.model, rank, point.phase, rows, live if rows <= MAX_ADAPTERS else 0


def _smaller(name: str, point: LoraPoint) -> LoraPoint:
    if name == "ours" or point.num_adapters <= MAX_ADAPTERS:
        return point
    return replace(point, popularity="even", num_adapters=MAX_ADAPTERS)


def _run(task: Task) -> str:
    """What failed."""
    name, point, peers = task
    try:
        for call in _calls(name, point, peers) * 2:  # a second launch may be chained to the first by another kernel
            call()
        torch.cuda.synchronize()
    except Exception as failure:  # noqa: BLE001 - reported, and met again where it counts
        return f"{name}, {point.name}: {type(failure).__name__}: {failure}"
    torch.cuda.empty_cache()
    return ""


def _calls(name: str, point: Point, peers: Path | None) -> list[Callable[[], object]]:
    if isinstance(point, StepPoint):
        return [point.draw().run["ours"]]
    if isinstance(point, AttentionPoint):
        attention = AttentionCase(point, max_layers=1)
        return [lambda: attention.ours(0)]
    case = LoraCase(point, max_layers=1)
    run = next(one for one in contenders(peers) if one.name == name).prepare(case)
    if run is None:
        return []
    calls: list[Callable[[], object]] = [partial(run, 0, index) for index in range(len(case.model.groups))]
    if name == "ours" and point in lora_layer.all_points():
        chain = LayerChain(case)
        calls += [partial(chain.run, 0, chain.ours), partial(chain.base, 0)]
    return calls
