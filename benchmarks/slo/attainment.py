"""The default policy beside the paper's scheduler, on the paper's traces and on servers like the paper's."""

from collections.abc import Mapping

import numpy as np

from benchmarks.result import RESULTS, Figure
from benchmarks.slo.paper import SEED, SETTINGS, VARIATIONS, Setting
from benchmarks.slo.plot import draw_attainment
from benchmarks.slo.policies import DEFAULT, ORDERS, policy_of
from control_plane.simulation.compare import compare
from control_plane.simulation.outcome import Outcome

# The traces of other seeds, which nobody measured: whether the paper's seed was a lucky one.
OTHER_SEEDS = (1, 2)

Cells = Mapping[str, tuple[Outcome, ...]]
"""Outcomes by policy, by coefficient of variation."""


def measure() -> list[Figure]:
    """Four policies on fifteen cells at the paper's seed, two of them at others."""
    cells = {setting.name: _cells(setting, (*ORDERS, DEFAULT), SEED) for setting in SETTINGS}
    others = {
        f"{setting.name}, seed {seed}": _cells(setting, ("paper-abort", DEFAULT), seed)
        for setting in SETTINGS
        for seed in OTHER_SEEDS
    }
    draw_attainment(SETTINGS, VARIATIONS, cells, RESULTS / "slo-attainment.png")
    details = {setting.name: _details(setting, cells[setting.name]) for setting in SETTINGS}
    figures = [
        _reproduction("paper-abort", cells, details),
        _reproduction("lcfs", cells, {}),
        *_gains(cells, "attainment"),
        *_gains(cells, "satisfaction"),
    ]
    return [*figures, _never_below(cells), *_gains_beside_simulated(cells, others)]


def _cells(setting: Setting, modes: tuple[str, ...], seed: int) -> Cells:
    policies = [policy_of(mode) for mode in modes]
    runs = [
        compare(setting.trace(variation, seed), policies, setting.fleet, seed=seed).outcomes for variation in VARIATIONS
    ]
    return {mode: tuple(outcomes[index] for outcomes in runs) for index, mode in enumerate(modes)}


def _reproduction(mode: str, cells: Mapping[str, Cells], details: Mapping[str, object]) -> Figure:
    """How far a simulated order is from the paper's, in the worst of the cells that the paper has."""
    errors = {
        f"{setting.name}, cv {variation}": cells[setting.name][mode][index].attainment - setting.attainment[mode][index]
        for setting in SETTINGS
        if mode in setting.attainment
        for index, variation in enumerate(VARIATIONS)
    }
    rounded = {name: round(error, 3) for name, error in errors.items()}
    worst = max(abs(error) for error in errors.values())
    name = "the paper's early abort" if mode == "paper-abort" else "LIFO"
    return Figure(
        f"attainment of {name}, simulated, off the paper's, worst of {len(errors)} cells",
        round(worst, 3),
        "share of requests",
        0.05,
        at_least=False,
        details={
            "error": rounded,
            "mean_absolute_error": round(float(np.mean(np.abs([*errors.values()]))), 3),
            **details,
        },
    )


def _gains(cells: Mapping[str, Cells], what: str) -> list[Figure]:
    """The default above the paper's published early abort."""
    gains = {
        f"{setting.name}, cv {variation}": getattr(cells[setting.name][DEFAULT][index], what)
        - getattr(setting, what)["paper-abort"][index]
        for setting in SETTINGS
        for index, variation in enumerate(VARIATIONS)
    }
    return _least_and_mean(f"{what} of the default above the paper's early abort", gains)


def _gains_beside_simulated(cells: Mapping[str, Cells], others: Mapping[str, Cells]) -> list[Figure]:
    """The default above the paper's rule in the same simulation, at every seed."""
    gains = {
        f"{name}, cv {variation}": each[DEFAULT][index].attainment - each["paper-abort"][index].attainment
        for name, each in {**cells, **others}.items()
        for index, variation in enumerate(VARIATIONS)
    }
    return _least_and_mean("attainment of the default above the paper's rule in the same simulation, 3 seeds", gains)


def _least_and_mean(name: str, gains: Mapping[str, float]) -> list[Figure]:
    rounded = {cell: round(gain, 3) for cell, gain in gains.items()}
    return [
        Figure(f"{name}, least", round(min(gains.values()), 3), "share of requests", 0.0, details=rounded),
        Figure(f"{name}, mean", round(float(np.mean([*gains.values()])), 3), "share of requests", 0.05),
    ]


def _never_below(cells: Mapping[str, Cells]) -> Figure:
    """The default above the better of FCFS and LIFO, in the worst cell and figure."""
    gaps = {
        f"{name}, cv {variation}, {what}": getattr(each[DEFAULT][index], what)
        - max(getattr(each[order][index], what) for order in ("fcfs", "lcfs"))
        for name, each in cells.items()
        for index, variation in enumerate(VARIATIONS)
        for what in ("attainment", "satisfaction")
    }
    rounded = {cell: round(gap, 3) for cell, gap in gaps.items()}
    return Figure(
        "attainment and satisfaction of the default above the better of FCFS and LIFO, least",
        round(min(gaps.values()), 3),
        "share of requests",
        0.0,
        details=rounded,
    )


def _details(setting: Setting, cells: Cells) -> dict[str, object]:
    """Every cell beside the paper's, and what refused requests were told."""
    shown: dict[str, object] = {"coefficients_of_variation": VARIATIONS}
    for mode, outcomes in cells.items():
        shown[mode] = {
            "attainment": [round(each.attainment, 3) for each in outcomes],
            "attainment_paper": setting.attainment.get(mode),
            "satisfaction": [round(each.satisfaction, 3) for each in outcomes],
            "satisfaction_paper": setting.satisfaction.get(mode),
            "first_token_p50_s": [round(each.first_token.p50, 2) for each in outcomes],
            "errors": [dict(each.errors) for each in outcomes],
        }
    return shown
