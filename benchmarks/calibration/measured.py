"""What result files say of an engine: steps by the clock, and workloads served all at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.serve.setups import SETUPS, Setup

_SATURATED = re.compile(r"n = (\d+)(?:, (\d+) requests)?")


class CalibrationError(Exception):
    """Files that cannot be calibrated from; the message says what to change."""


@dataclass(frozen=True)
class Step:
    """One step: sequences that decode, tokens of their contexts, ranks of distinct adapters, and a prompt's tokens."""

    num_sequences: int
    num_context_tokens: int
    sum_ranks: int
    num_prompt_tokens: int
    seconds: float


@dataclass(frozen=True)
class Saturated:
    """The first requests of the saturating workload, all at once, over so many adapters; 0: the base model alone."""

    name: str
    num_adapters: int
    num_requests: int
    max_running: int
    max_step_tokens: int
    seconds: float


def setup_of(documents: list[Mapping[str, Any]]) -> Setup:
    """The one setup that all files are of. Raises CalibrationError."""
    names = {str(name).upper() for document in documents for name in _setups_in(document)}
    found = [setup for setup in SETUPS.values() if {setup.name.upper()} == names]
    if not found:
        raise CalibrationError(f"the files are of setups {sorted(names)}: name files of one of {', '.join(SETUPS)}")
    return found[0]


def _setups_in(document: Mapping[str, Any]) -> list[str]:
    """Each step of a roofline file says its own, other files say one for all of them."""
    return [step["setup"] for step in document.get("steps", [])] or [document.get("setup", "")]


def steps_in(document: Mapping[str, Any], setup: Setup) -> list[Step]:
    """The steps of a roofline file; none in other files."""
    return [
        Step(
            num_sequences=step["rows"],
            num_context_tokens=step["rows"] * step["context"],
            sum_ranks=sum(setup.ranks[number % len(setup.ranks)] for number in range(step["adapters"])),
            num_prompt_tokens=step["chunk"],
            seconds=step["wall_ms"] / 1000,
        )
        for step in document.get("steps", [])
    ]


def saturated_in(document: Mapping[str, Any]) -> list[Saturated]:
    """The saturating runs of our own engine, without variants, in a serving file; none in other files."""
    found = []
    for name, run in document.get("runs", {}).items():
        match = _SATURATED.fullmatch(name)
        if match is None:
            continue
        figures, bounds = run.get("figures", run), run.get("options", document.get("bounds", {}))
        num_requests = match[2] or figures.get("num_requests") or document.get("num_requests")
        if not num_requests:
            raise CalibrationError(f"run {name!r} does not say how many requests it served: measure it again")
        found.append(
            Saturated(
                name=name,
                num_adapters=int(match[1]),
                num_requests=int(num_requests),
                max_running=bounds["max_running"],
                max_step_tokens=bounds["max_step_tokens"],
                seconds=figures["seconds"],
            )
        )
    return found
