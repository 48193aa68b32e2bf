"""Pictures of results: `python -m benchmarks.serve.plot FILE...` draws each beside its file."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Runs = Mapping[str, Mapping[str, Any]]


def draw(path: Path) -> Path:
    """Writes the picture beside the file, with .png for .json."""
    document = json.loads(path.read_text(encoding="utf-8"))
    runs: Runs = {name: run for name, run in document["runs"].items() if "requests_per_s" in run["figures"]}
    colours = {name: f"C{index % 10}" for index, name in enumerate(runs)}
    figure = plt.figure(figsize=(16, 6 + 0.5 * len(runs)), layout="constrained")
    axes = figure.subplots(2, 4)
    bars: Sequence[tuple[str, Sequence[str]]] = (
        ("requests per second", ("requests_per_s",)),
        ("output tokens per second", ("output_tokens_per_s",)),
        ("latency, first token, mean, s", ("latency_mean_s", "first_token_mean_s")),
        ("first token in 6 s: attainment, satisfaction", ("attainment", "satisfaction")),
        ("ms per output token, p50, p90, p99", ("tpot_p50_ms", "tpot_p90_ms", "tpot_p99_ms")),
    )
    for place, (own, (title, names)) in enumerate(zip(axes.flat, bars, strict=False)):
        _bars(own, runs, colours, title, names)
        own.set_yticks([-row for row in range(len(runs))], list(runs) if place % 4 == 0 else [], fontsize=8)
    _over_time(axes.flat[5], runs, colours, "kv", "share of the pool: KV")
    _over_time(axes.flat[6], runs, colours, "adapters", "share of the pool: adapters")
    _over_time(axes.flat[7], runs, colours, "num_running", "sequences in the batch")
    machine = document["machine"]
    where = machine.get("gpu") or machine.get("cpu")
    commits = ", ".join(sorted({str(run["machine"]["commit"]) for run in document["runs"].values()}))
    figure.suptitle(f"{document['setup']}, {document['level']}, on {where}; commit {commits}")
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=90)
    plt.close(figure)
    return target


def _bars(axes: Axes, runs: Runs, colours: Mapping[str, str], title: str, figures: Sequence[str]) -> None:
    """One group of bars a run, the first run at the top; of several figures the later are paler."""
    height = 0.8 / len(figures)
    for place, figure in enumerate(figures):
        values = [float(run["figures"].get(figure, 0.0)) for run in runs.values()]
        places = [-row - (place - (len(figures) - 1) / 2) * height for row in range(len(runs))]
        drawn = axes.barh(places, values, height, color=list(colours.values()), alpha=1 / (1 + 0.6 * place))
        axes.bar_label(drawn, fmt=_short, fontsize=7, padding=2)
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.2)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _over_time(axes: Axes, runs: Runs, colours: Mapping[str, str], what: str, title: str) -> None:
    """A line for each run, in the colour of its bars."""
    for name, run in runs.items():
        if timeline := run.get("timeline"):
            axes.plot(timeline["seconds"], timeline[what], color=colours[name])
    axes.set_visible(bool(axes.lines))  # a stack tells nothing of its pool
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("s")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
