"""What an earlier run measured, read from its file, so that another run measures the rest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.kernels import attention, lora_grid, lora_layer
from benchmarks.kernels.document import lora_point
from benchmarks.kernels.floors import Work
from benchmarks.kernels.lora_layer import LayerTimes
from benchmarks.kernels.results import Measured, Results
from benchmarks.kernels.timing import Timing


class OtherRun(ValueError):
    """A file whose times are not to stand beside this run's."""


def restore(results: Results, path: Path, machine: Mapping[str, object]) -> None:
    """Puts what a file holds into a run's results.

    Args:
        results: of a run that has measured nothing yet.
        path: the file.
        machine: this run's, with its commit.

    Raises:
        OtherRun: it is of another commit, GPU or version of what runs there.
    """
    document = json.loads(path.read_text())
    other = {name: (seen, machine.get(name)) for name, seen in document["machine"].items() if seen != machine.get(name)}
    if other:
        differs = ", ".join(f"{name} was {seen}, is {now}" for name, (seen, now) in other.items())
        raise OtherRun(f"{path} is of another run: {differs}; run all points instead, without --rest-of")
    lora, attended = ({point.name: point for point in part.all_points()} for part in (lora_grid, attention))
    layers = {json.dumps(lora_point(point)): point for point in lora_layer.all_points()}
    results.lora.update({lora[found["name"]]: _measured(found) for found in document["lora"]})
    results.attention.update({attended[found["name"]]: _measured(found) for found in document["attention"]})
    results.step.extend(_measured(found) for found in document["step"])
    for found in document["layer"]:
        key = json.dumps({name: found[name] for name in lora_point(next(iter(layers.values())))})
        results.layers[layers[key]] = LayerTimes(
            base=Timing(**found["base_us"]),
            with_lora=_timings(found["with_lora_us"]),
            linears=Timing(**found["linears_us"]),
            alone=_timings(found["alone_us"]),
            bases=_timings(found["base_beside_us"]),
        )
    results.refused.reasons.extend(document["refused"])
    results.earlier.extend([*document.get("earlier", []), document["time"]])


def _measured(found: Mapping[str, Any]) -> Measured:
    work = Work(found["bytes"], found["flops"])
    return Measured(found["name"], work, found["floor_us"], _timings(found["us"]))


def _timings(found: Mapping[str, Mapping[str, float]]) -> dict[str, Timing]:
    return {name: Timing(**timing) for name, timing in found.items()}
