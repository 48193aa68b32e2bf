"""What runs should come to on one H200, and what they came to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.result import Figure

Runs = Mapping[str, Mapping[str, float]]  # figures of runs by name


@dataclass(frozen=True)
class Goal:
    """A bound on a figure of one run, or on its ratio to the same figure of another.

    Attributes:
        setup: Whose goal it is.
        run: The run's name.
        figure: What of its figures.
        bound: The goal.
        unit: Of the figure; "ratio" if there is a baseline.
        baseline: The other run's name.
        at_least: Whether the goal is a lower bound.
        level: At which it was measured.
    """

    setup: str
    run: str
    figure: str
    bound: float
    unit: str
    baseline: str | None = None
    at_least: bool = True
    level: str = "engine"

    def measured(self, runs: Runs) -> Figure | None:
        """Beside the goal; None if a run that it needs is not there."""
        value = runs.get(self.run, {}).get(self.figure)
        if value is None:
            return None
        name = f"{self.setup}, {self.run}: {self.figure}"
        if self.baseline is None:
            return Figure(name, value, self.unit, self.bound, self.at_least)
        below = runs.get(self.baseline, {}).get(self.figure)
        if not below:
            return None
        ratio = round(value / below, 3)
        details = {self.run: value, self.baseline: below}
        return Figure(f"{name} by that of {self.baseline}", ratio, "ratio", self.bound, self.at_least, details)


def _rate(setup: str, run: str, bound: float) -> Goal:
    return Goal(setup, run, "requests_per_s", bound, "requests/s")


def _of(setup: str, run: str, baseline: str, bound: float) -> Goal:
    return Goal(setup, run, "requests_per_s", bound, "ratio", baseline)


def _decode(run: str, bound: float) -> Goal:
    return Goal("S1", f"decode {run}", "output_tokens_per_s", bound, "tokens/s")


def _cold(setup: str, figure: str, bound: float, unit: str) -> Goal:
    return Goal(setup, "cold adapter", figure, bound, unit, at_least=False)


GOALS: Sequence[Goal] = (
    _rate("S1", "n = 0", 36.0),
    _rate("S1", "n = 100", 34.0),
    _rate("S1", "n = 2000", 32.0),
    _of("S1", "n = 2000", "n = 0", 0.9),
    *(
        _of("S1-rank4", f"n = 10000, 3000 requests{hosted}", f"n = 0, 3000 requests{hosted}", 0.85)
        for hosted in ("", ", all in host memory")
    ),
    _of("S2", "n = 2000, host cache 24 GiB", "n = 0, host cache 24 GiB", 0.8),
    _rate("M2", "n = 0", 62.0),
    _rate("M2", "n = 200", 45.0),
    _decode("1 row", 250.0),
    _decode("1 row, 1 adapter", 235.0),
    _decode("256 rows, 256 adapters", 11_000.0),
    *(_cold(setup, "cold_minus_resident_ms", 10.0, "ms") for setup in ("S1", "M2")),
    *(_cold(setup, "idle_cold_minus_resident_ms", 10.0, "ms") for setup in ("S1", "M2")),
    *(_cold(setup, "others_tpot_by_resident", 1.05, "ratio") for setup in ("S1", "M2")),
    _of("S1", "n = 100", "n = 100, Hugging Face PEFT", 100.0),
    *(
        _of("S2", f"n = {n}, 300 requests, pool 24 GiB", f"n = {n}, 300 requests, pool 24 GiB, static split", 1.15)
        for n in (5, 200)
    ),
    _of("S1", "n = 2000, 200 requests", "n = 2000, 200 requests, padded bmm", 10.0),
    _of("S4", "n = 100, 100 requests", "n = 100, 100 requests, padded bmm", 10.0),
    _of(
        "S4",
        "n = 100, 200 requests, pool 24 GiB",
        "n = 100, 200 requests, pool 24 GiB, static split",
        1.15,
    ),
    Goal("S1", "n = 100", "by_engine", 0.95, "ratio", level="stack"),
)


def figures(setup: str, level: str, runs: Runs) -> list[Figure]:
    """What of these runs has a goal."""
    own = [goal for goal in GOALS if (goal.setup, goal.level) == (setup, level)]
    return [figure for figure in (goal.measured(runs) for goal in own) if figure is not None]
