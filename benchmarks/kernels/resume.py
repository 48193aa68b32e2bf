"""What an earlier run measured, read from its file, so that another run measures the rest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.kernels import attention, lora_grid, lora_layer
from benchmarks.kernels.correctness import Refused
from benchmarks.kernels.floors import Ceilings, Work
from benchmarks.kernels.lora_layer import LayerTimes
from benchmarks.kernels.results import Measured, Results
from benchmarks.kernels.timing import Timing


class OtherRun(ValueError):
    """A file whose times are not to stand beside this run's."""


def restore(path: Path, machine: Mapping[str, object], peers: Mapping[str, object]) -> Results:
    """What a file holds, as the beginning of this run's results; floors are by its ceilings.

    Args:
        path: the file.
        machine: this run's, with its commit.
        peers: this run's, as in a file.

    Raises:
        OtherRun: it cannot be read, or is of another commit or one with changes, GPU, or version of what runs there.
    """
    try:
        document = json.loads(path.read_text())
        before = {**document["machine"], "peers": document["peers"]}
    except (OSError, ValueError, KeyError) as error:
        raise OtherRun(f"{path} is no file of an earlier run: {error}") from error
    now = {**machine, "peers": dict(peers)}
    other = {name: (seen, now.get(name)) for name, seen in before.items() if seen != now.get(name)}
    if other:
        differs = ", ".join(f"{name} was {seen}, is {is_now}" for name, (seen, is_now) in other.items())
        raise OtherRun(f"{path} is of another run: {differs}; run all points instead, without --rest-of")
    if str(machine["commit"]).endswith("+changes"):
        raise OtherRun(f"{path} is of a tree with changes, which may be others by now: commit them, and run all points")
    ceilings = document["ceilings"]
    results = Results(
        Ceilings(ceilings["copy_tb_per_s"] * 1e12, ceilings["bf16_tflop_per_s"] * 1e12),
        Refused(),
        earlier=[*document.get("earlier", []), document["time"]],
    )
    lora, layers = ({point.name: point for point in part.all_points()} for part in (lora_grid, lora_layer))
    attended = {point.name: point for point in attention.all_points()}
    results.lora.update({lora[found["name"]]: _measured(found) for found in document["lora"]})
    results.attention.update({attended[found["name"]]: _measured(found) for found in document["attention"]})
    results.step.extend(_measured(found) for found in document["step"])
    for found in document["layer"]:
        results.layers[layers[found["name"]]] = LayerTimes(
            base=Timing(**found["base_us"]),
            with_lora=_timings(found["with_lora_us"]),
            linears=Timing(**found["linears_us"]),
            alone=_timings(found["alone_us"]),
            bases=_timings(found["base_beside_us"]),
        )
    results.refused.reasons.extend(document["refused"])
    return results


def _measured(found: Mapping[str, Any]) -> Measured:
    work = Work(found["bytes"], found["flops"])
    return Measured(found["name"], work, found["floor_us"], _timings(found["us"]))


def _timings(found: Mapping[str, Mapping[str, float]]) -> dict[str, Timing]:
    return {name: Timing(**timing) for name, timing in found.items()}
