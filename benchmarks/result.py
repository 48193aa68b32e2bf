"""A benchmark's figures, and where they are written."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured figure beside its goal.

    Attributes:
        name: what was measured.
        value: the figure that the goal speaks of.
        unit: its unit; "ratio" for a share of a baseline.
        goal: the goal.
        at_least: whether the goal is a lower bound.
        details: the measurements behind it, baseline included, each a value or all repetitions.
    """

    name: str
    value: float
    unit: str
    goal: float
    at_least: bool = True
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True)
class Spread:
    """Repetitions of one measurement."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Their median."""
        return statistics.median(self.values)

    def summary(self) -> dict[str, float]:
        """Median, least and most."""
        return {"median": round(self.median, 3), "min": round(min(self.values), 3), "max": round(max(self.values), 3)}


def write(
    name: str,
    figures: Sequence[Figure],
    *,
    folder: Path = RESULTS,
    machine: Mapping[str, object] | None = None,
    extra: Mapping[str, object] | None = None,
) -> Path:
    """Writes figures with the machine and the commit that they were measured on, and what else there is to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    document = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": this_machine() if machine is None else machine,
        "figures": [{**asdict(figure), "is_met": figure.is_met} for figure in figures],
        **(extra or {}),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def goal_table(figures: Sequence[Figure]) -> Table:
    """Measured values beside their goals, for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("measured", "value", "goal", ""):
        table.add_column(column, justify="left" if column == "measured" else "right")
    for figure in figures:
        bound = "≥" if figure.at_least else "≤"
        verdict = "[green]met[/]" if figure.is_met else "[red]missed[/]"
        table.add_row(figure.name, f"{figure.value:g} {figure.unit}", f"{bound} {figure.goal:g}", verdict)
    return table


def commit() -> str:
    """The tree's commit; with a mark if something has changed since."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    changes = ["git", "status", "--porcelain", "--", ".", ":!benchmarks/results"]
    dirty = subprocess.run(changes, capture_output=True, text=True, check=False).stdout
    return head.strip() + ("+changes" if dirty.strip() else "")


def this_machine() -> dict[str, object]:
    """The processor, the version of Python, and the commit."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit(),
    }
