"""Pictures of rooflines: `python -m benchmarks.roofline.plot FILE...` draws each beside its file."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from benchmarks.roofline.case import Case
from benchmarks.serve.setups import SETUPS

_LABELLED = 0.04  # of a step: parts that are wide enough for their share


def draw(path: Path) -> Path:
    """Writes the picture beside the file, with .png for .json: each step's parts on the device over their floors."""
    document = json.loads(path.read_text(encoding="utf-8"))
    steps: Sequence[Mapping[str, Any]] = document["steps"]
    names = list(dict.fromkeys(part["part"] for step in steps for part in step["parts"]))
    colours = {name: plt.get_cmap("tab20")(index % 20) for index, name in enumerate(names)} | {"idle": "white"}
    figure, axes = plt.subplots(len(steps), 1, figsize=(14, 1 + 1.5 * len(steps)), layout="constrained", squeeze=False)
    for step, own in zip(steps, axes[:, 0], strict=True):
        _step(own, step, colours)
    handles = [Patch(facecolor=colour, edgecolor="grey", label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    machine = document["machine"]
    figure.suptitle(f"A step's time by part, ms, on {machine['gpu']}; commit {machine['commit']}")
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=90)
    plt.close(figure)
    return target


def _step(axes: Axes, step: Mapping[str, Any], colours: Mapping[str, Any]) -> None:
    """Two bars: what parts and idling came to, and the parts' floors."""
    idle_ms = step["wall_ms"] - step["busy_ms"]
    parts = step["parts"]
    measured = [(part["part"], part["busy_ms"]) for part in parts] + [("idle", idle_ms)]
    floors = [(part["part"], part["floor_ms"]) for part in parts]
    for place, bars in ((1, measured), (0, floors)):
        left = 0.0
        for name, width in bars:
            axes.barh(place, width, 0.8, left, color=colours[name], edgecolor="grey", linewidth=0.4)
            if width >= _LABELLED * step["wall_ms"]:
                axes.text(left + width / 2, place, f"{width:.3g}", ha="center", va="center", fontsize=7)
            left += width
    axes.set_yticks([1, 0], [f"measured {step['wall_ms']:.2f}", f"floor {step['floor_ms']:.2f}"], fontsize=8)
    axes.set_xlim(0, step["wall_ms"] * 1.01)
    case = Case(SETUPS[step["setup"]], step["rows"], step["adapters"], step["context"], step["chunk"])
    axes.set_title(str(case), fontsize=9, loc="left")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
