"""Simulated policies side by side, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multitude.errors import InvalidRequestError
from multitude.types import SimulatedOutcome


def plot_outcomes(outcomes: Sequence[SimulatedOutcome], path: Path) -> None:
    """Writes a PNG: shares, first tokens, throughput over time, adapters' loads.

    Errors: InvalidRequestError with reason PLOT_NEEDS_MATPLOTLIB.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- needed for plots alone
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise InvalidRequestError(
            "plots need matplotlib: pip install matplotlib, or leave --plot out", reason="PLOT_NEEDS_MATPLOTLIB"
        ) from error
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    shares, first_tokens, throughput, loads = figure.subplots(2, 2).flat
    colours = [f"C{index % 10}" for index in range(len(outcomes))]
    _shares(shares, outcomes, colours)
    _first_tokens(first_tokens, outcomes, colours)
    _throughput(throughput, outcomes, colours)
    labels = [outcome.label for outcome in outcomes]
    loads.bar(labels, [outcome.num_adapter_loads for outcome in outcomes], color=colours)
    loads.set_title("adapters brought into pools")
    figure.legend(*shares.get_legend_handles_labels(), loc="outside lower center", ncols=max(1, len(outcomes)))
    figure.savefig(path, dpi=120)


def _shares(axes: Any, outcomes: Sequence[SimulatedOutcome], colours: Sequence[str]) -> None:
    width = 0.8 / len(outcomes)
    for index, (outcome, colour) in enumerate(zip(outcomes, colours, strict=True)):
        values = (outcome.attainment, outcome.satisfaction, outcome.fairness, outcome.load_balance)
        places = [place + (index - (len(outcomes) - 1) / 2) * width for place in range(len(values))]
        axes.bar(places, values, width, label=outcome.label, color=colour)
    axes.set_xticks(range(4), ["attainment", "satisfaction", "fairness", "balance"])
    axes.set_ylim(0, 1.02)
    axes.set_title("shares, 1 is best")


def _first_tokens(axes: Any, outcomes: Sequence[SimulatedOutcome], colours: Sequence[str]) -> None:
    for outcome, colour in zip(outcomes, colours, strict=True):
        curve = outcome.first_token_curve_ms
        axes.plot([ms / 1000 for ms in curve], range(1, len(curve) + 1), color=colour)
    axes.set_xlabel("seconds since arrival")
    axes.set_ylabel("% of all requests")
    axes.set_ylim(0, 102)
    axes.set_title("requests that have their first token")


def _throughput(axes: Any, outcomes: Sequence[SimulatedOutcome], colours: Sequence[str]) -> None:
    for outcome, colour in zip(outcomes, colours, strict=True):
        slice_s = outcome.duration_ms / 1000 / max(1, len(outcome.output_token_counts))
        times = [(index + 0.5) * slice_s for index in range(len(outcome.output_token_counts))]
        axes.plot(times, [count / slice_s for count in outcome.output_token_counts], color=colour)
    axes.set_xlabel("seconds of the trace")
    axes.set_title("output tokens per second, of requests by their end")
