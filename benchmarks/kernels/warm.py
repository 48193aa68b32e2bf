"""Compiles every kernel of a run before it, in several processes that share Triton's cache on disk."""

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.kernels.contenders import Contender, Ours
from benchmarks.kernels.lora_case import LoraCase, LoraPoint

MAX_ADAPTERS = 32  # of a warm-up: no kernel is compiled for how many there are beyond


def warm_up(points: Sequence[LoraPoint], peers: Path | None) -> list[str]:
    """Runs what points need once, each kind of point in one of as many processes as there are processors.

    Returns:
        What failed; the run itself meets it again.
    """
    kinds: dict[tuple[str, int, str], dict[LoraPoint, None]] = {}
    for point in points:
        kinds.setdefault((point.model, max(point.ranks), point.phase), {})[_smaller(point)] = None
    tasks = [(list(kind), peers) for kind in kinds.values()]
    processes = max(1, min(len(tasks), (os.cpu_count() or 2) - 2))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [failure for failure in pool.starmap(_run, tasks, chunksize=1) if failure]


def contenders(peers: Path | None) -> list[Contender]:
    """Ours, and the peers whose files are there."""
    if peers is None:
        return [Ours()]
    from benchmarks.kernels.peers.sglang import SglangCsgmv, SglangPlanned  # noqa: PLC0415 - they need a peer's files
    from benchmarks.kernels.peers.vllm import Vllm  # noqa: PLC0415

    return [Ours(), Vllm(peers), Vllm(peers, dual_stream=True), SglangCsgmv(peers), SglangPlanned(peers)]


def _smaller(point: LoraPoint) -> LoraPoint:
    if point.num_adapters <= MAX_ADAPTERS:
        return point
    return replace(point, popularity="even", num_adapters=MAX_ADAPTERS)


def _run(points: Sequence[LoraPoint], peers: Path | None) -> str:
    """What failed; the run itself will say more of it."""
    torch.cuda.init()
    try:
        for point in points:
            case = LoraCase(point, max_layers=2)
            for contender in contenders(peers):
                run = contender.prepare(case)
                if run is not None:
                    for index in range(len(case.model.groups)):
                        run(0, index)
            torch.cuda.synchronize()
    except Exception as failure:  # noqa: BLE001 - reported, and met again where it counts
        return f"{type(failure).__name__}: {failure}"
    return ""
