"""Plots of deadlines and fairness; a plot is read beside its JSON file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.slo.paper import Setting
from control_plane.simulation.outcome import Outcome

mpl.use("Agg")

_COLOURS = {"fcfs": "#9aa0a6", "lcfs": "#e0a030", "paper-abort": "#3b78c2", "early-abort": "#c23b5a"}
_NAMES = {"fcfs": "FCFS", "lcfs": "LIFO", "paper-abort": "paper's early abort", "early-abort": "default"}


def draw_attainment(
    settings: Sequence[Setting],
    variations: Sequence[int],
    cells: Mapping[str, Mapping[str, Sequence[Outcome]]],
    path: Path,
) -> None:
    """Attainment above, satisfaction below, a column for each setting: simulated as lines, the paper's as crosses."""
    figure, rows = plt.subplots(2, len(settings), figsize=(4.2 * len(settings), 6.4), sharex=True, sharey=True)
    for row, what in zip(rows, ("attainment", "satisfaction"), strict=True):
        for axes, setting in zip(row, settings, strict=True):
            for mode, outcomes in cells[setting.name].items():
                values = [getattr(outcome, what) for outcome in outcomes]
                axes.plot(variations, values, color=_COLOURS[mode], marker="o", markersize=3, label=_NAMES[mode])
                published = getattr(setting, what).get(mode)
                if published is not None:
                    axes.plot(variations, published, "x", color=_COLOURS[mode], markersize=8, markeredgewidth=1.5)
            axes.set_ylim(0, 1)
            axes.grid(alpha=0.25)
            axes.set_xticks(variations)
        row[0].set_ylabel(what)
    for axes, setting in zip(rows[0], settings, strict=True):
        axes.set_title(f"{setting.name}, {setting.num_adapters} adapters, {setting.requests_per_s:g} requests/s")
    for axes in rows[1]:
        axes.set_xlabel("coefficient of variation of the arrivals")
    rows[0][0].plot([], [], "x", color="black", label="the paper's measurement")
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_service(
    series: Mapping[str, Sequence[tuple[float, float]]], bound: float, attainment: Mapping[str, float], path: Path
) -> None:
    """What backlogged tenants got over time, with the bound of their gap; and who met deadlines beside a flood."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for tenant, points in series.items():
        left.plot([at for at, _ in points], [got for _, got in points], label=tenant)
    times, least = zip(*next(iter(series.values())), strict=True)
    left.fill_between(times, least, [got + bound for got in least], color="#3b78c2", alpha=0.12, label="the bound")
    left.set_xlabel("s")
    left.set_ylabel("weighted tokens got, by the tenant's weight")
    left.legend(frameon=False)
    left.grid(alpha=0.25)
    right.bar(range(len(attainment)), list(attainment.values()), color="#3b78c2")
    right.set_xticks(range(len(attainment)), list(attainment), rotation=45, ha="right")
    right.set_ylabel("attainment")
    right.set_ylim(0, 1.02)
    right.grid(alpha=0.25, axis="y")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
