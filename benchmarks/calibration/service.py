"""From what was measured to a service model."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.calibration.measured import CalibrationError, Saturated, Step
from benchmarks.serve.setups import Setup
from benchmarks.serve.workload import SATURATE
from control_plane.core.policy import AdmissionMode, AdmissionSettings, ClusteringSettings, DispatchSettings, Policy
from control_plane.simulation.compare import compare
from control_plane.simulation.service import FleetModel, ServiceModel
from control_plane.simulation.trace import Trace, TraceRequest

# An H200's ceilings, as measured by the kernels' benchmark: bytes copied and floating-point operations a second.
COPIED, COMPUTED = 4.3e12, 790e12
# Bytes a second from pinned host memory, and the memory left for weights and the pool.
LOADED, MEMORY = 54.6e9, 120e9
_ELEMENT = 2  # bytes

_FCFS = Policy(
    "fcfs",
    admission=AdmissionSettings(mode=AdmissionMode.FCFS, max_queued=100_000, max_queued_per_tenant=100_000),
    clustering=ClusteringSettings(max_adapters_per_worker=1_000_000, max_run=1),
    dispatch=DispatchSettings(max_promised=0.0),
)


def floor_of(setup: Setup) -> ServiceModel:
    """A step that takes no longer than its bytes and operations do; prompts ride along in steps of decodes."""
    shape = setup.shape
    hidden, width_kv = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    per_layer = hidden * (2 * hidden + 2 * width_kv + 3 * shape.intermediate_size)
    num_weights = shape.num_layers * per_layer + hidden * setup.vocab_size
    bytes_per_token = shape.num_layers * 2 * width_kv * _ELEMENT
    per_row_s = 2 * num_weights / COMPUTED
    return ServiceModel(
        step_s=num_weights * _ELEMENT / COPIED,
        sequence_s=per_row_s,
        context_s=bytes_per_token / COPIED,
        rank_s=bytes_per_rank(setup) / COPIED,
        prefill_s=0.0,
        token_s=per_row_s,
        pool_tokens=int((MEMORY - num_weights * _ELEMENT) / bytes_per_token),
        bytes_per_token=bytes_per_token,
        load_s_per_gb=1e9 / LOADED,
    )


def bytes_per_rank(setup: Setup) -> int:
    """Of an adapter."""
    layout = setup.layout(0)
    return sum(
        (setup.shape.in_features(module) + setup.shape.out_features(module)) * _ELEMENT
        for ranks in layout.ranks
        for module, rank in enumerate(ranks)
        if rank
    )


def from_steps(start: ServiceModel, steps: Sequence[Step]) -> ServiceModel:
    """The numbers whose steps are nearest to those measured, relative to each; none is below 0.

    Raises CalibrationError if the steps are too few or too much alike.
    """
    names = ("step_s", "sequence_s", "context_s", "rank_s", "token_s")
    rows = np.array(
        [[1.0, s.num_sequences, s.num_context_tokens, s.sum_ranks, s.num_prompt_tokens] for s in steps], dtype=float
    )
    used = [index for index in range(len(names)) if rows.size and rows[:, index].any()]
    if len(steps) < len(used) or not used or np.linalg.matrix_rank(rows[:, used]) < len(used):
        raise CalibrationError(
            f"{len(steps)} steps do not tell {len(used)} numbers apart: measure more, with other rows and contexts"
        )
    weights = 1.0 / np.array([step.seconds for step in steps])
    while True:
        found, *_ = np.linalg.lstsq(rows[:, used] * weights[:, None], np.ones(len(steps)), rcond=None)
        if (found >= 0).all():
            break
        used.pop(int(found.argmin()))
    values: dict[str, Any] = dict.fromkeys((name for index, name in enumerate(names) if rows[:, index].any()), 0.0)
    values |= {names[index]: float(value) for index, value in zip(used, found, strict=True)}
    return replace(start, **values)


def from_runs(start: ServiceModel, setup: Setup, runs: Sequence[Saturated]) -> ServiceModel:
    """The start's numbers times one factor for the base model, and its rank by another, so that runs last as measured.

    The factor of the base is of the run without adapters, that of a rank of the run with most. Raises CalibrationError
    if there is no run without adapters.
    """
    base = next((run for run in runs if not run.num_adapters), None)
    if base is None:
        raise CalibrationError("there is no saturating run of the base model alone: measure one with --adapters 0")

    def slower(factor: float) -> ServiceModel:
        return replace(
            start,
            step_s=start.step_s * factor,
            sequence_s=start.sequence_s * factor,
            context_s=start.context_s * factor,
            token_s=start.token_s * factor,
        )

    service = slower(_solve(lambda factor: simulated_s(slower(factor), setup, base), base.seconds))
    most = max(runs, key=lambda run: run.num_adapters)
    if not most.num_adapters:
        return service

    def heavier(factor: float) -> ServiceModel:
        return replace(service, rank_s=start.rank_s * factor)

    return heavier(_solve(lambda factor: simulated_s(heavier(factor), setup, most), most.seconds))


def simulated_s(service: ServiceModel, setup: Setup, run: Saturated) -> float:
    """How long a run lasts on a simulated worker; adapters are in host memory and copied beside steps."""
    service = replace(
        service,
        max_running=run.max_running,
        window=run.num_requests,
        batch_tokens=run.max_step_tokens,
        is_host_warm=True,
    )
    (outcome,) = compare(_trace(setup, run), [_FCFS], FleetModel(service=service)).outcomes
    assert outcome.num_finished == run.num_requests
    return outcome.duration_s


def _solve(seconds_of: Callable[[float], float], seconds: float) -> float:
    """The factor, from 1/32 to 32, at which a run lasts so long; more makes it longer."""
    low, high = -5.0, 5.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds_of(2.0**middle) < seconds else (low, middle)
    return math.pow(2.0, (low + high) / 2)


def _trace(setup: Setup, run: Saturated) -> Trace:
    lines = SATURATE.read_text(encoding="utf-8").splitlines()[: run.num_requests]
    size = bytes_per_rank(setup)
    requests = []
    for line in map(json.loads, lines):
        adapter = int(line["u"] * run.num_adapters)
        rank = setup.ranks[adapter % len(setup.ranks)]
        name = f"adapter-{adapter}" if run.num_adapters else ""
        requests.append(
            TraceRequest(0.0, line["prompt_len"], line["output_len"], name, rank=rank, size_bytes=rank * size)
        )
    return Trace(run.name, tuple(requests))
