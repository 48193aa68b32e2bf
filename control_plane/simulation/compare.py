"""Several policies on one trace, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.core.policy import Policy
from control_plane.simulation.outcome import Outcome
from control_plane.simulation.run import Run
from control_plane.simulation.service import FleetModel
from control_plane.simulation.trace import Trace


@dataclass(frozen=True, slots=True)
class Comparison:
    """What each policy made of a trace, in the order in which the policies were named."""

    trace: str
    seed: int
    outcomes: tuple[Outcome, ...]


def compare(trace: Trace, policies: Sequence[Policy], fleet: FleetModel, *, seed: int = 0) -> Comparison:
    """Plays the trace once for each policy, on equal fleets with equal faults."""
    return Comparison(trace.name, seed, tuple(Run(trace, policy, fleet, seed).play() for policy in policies))
