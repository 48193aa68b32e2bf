"""`python -m control_plane.operations.simulation`: one simulation, as JSON from standard input to standard output.

A process of its own: a simulation computes for seconds or minutes, and serving must not wait for it.
"""

import base64
import json
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from control_plane.core.policy import Policy
from control_plane.policy.document import PolicyError, load_policy
from control_plane.simulation.compare import compare
from control_plane.simulation.named import NAMED
from control_plane.simulation.outcome import Outcome
from control_plane.simulation.service import FleetModel, ServiceModel, WorkerTraits
from control_plane.simulation.trace import Trace, TraceError, read_trace

NUM_TIME_SLICES = 60
MAX_TRACE_BYTES = 256 << 20
# Above the other processes' own: serving goes first.
NICENESS = 10


class CostError(Exception):
    """A cost that the service model does not have; the message says what to change."""


def main() -> int:
    """Prints `{"outcomes": [...]}`, or `{"error": {"reason", "field", "message"}}` for the caller's mistakes."""
    os.nice(NICENESS)
    asked = json.load(sys.stdin)
    json.dump(simulate(asked), sys.stdout)
    return 0


def simulate(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a trace, policies of label and text, `workers`, `fleet`, `seed`, `service`, `costs`."""
    try:
        trace = read_trace("trace", _trace_text(asked).splitlines())
    except TraceError as error:
        return _error("TRACE_INVALID", "trace", str(error))
    policies: list[Policy] = []
    for index, (label, text) in enumerate(asked["policies"]):
        try:
            policies.append(load_policy(text).policy)
        except PolicyError as error:
            return _error("POLICY_INVALID", f"policies[{index}].yaml", f"{label}: {error}")
    named = asked["service"]
    if named and named not in NAMED:
        return _error("SIMULATION_INVALID", "service", f"{named!r} is not known; there are {', '.join(NAMED)}")
    try:
        service = service_model(asked["costs"], NAMED.get(named, ServiceModel()))
    except CostError as error:
        return _error("SIMULATION_INVALID", "costs", str(error))
    fleet = FleetModel(num_workers=asked["workers"], service=service, traits=_traits(asked))
    outcomes = compare(trace, policies, fleet, seed=asked["seed"]).outcomes
    labels = [label for label, _ in asked["policies"]]
    return {"outcomes": [_told(label, outcome, trace) for label, outcome in zip(labels, outcomes, strict=True)]}


def _trace_text(asked: Mapping[str, Any]) -> str:
    """The trace as it is, or unpacked. Raises TraceError."""
    compressed = base64.b64decode(asked["compressed_trace"])
    if not compressed:
        return str(asked["trace"])
    if asked["trace"]:
        raise TraceError("give trace or compressed_trace, not both")
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(compressed, MAX_TRACE_BYTES).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise TraceError(f"compressed_trace cannot be unpacked: {error}") from None
    if not unpacking.eof:
        raise TraceError(
            f"compressed_trace ends too early, or holds more than {MAX_TRACE_BYTES >> 20} MiB: cut it in parts"
        )
    return text


def service_model(costs: Mapping[str, float], start: ServiceModel) -> ServiceModel:
    """A service model with some of its numbers given. Raises CostError."""
    known: dict[str, type] = {field.name: type(getattr(ServiceModel(), field.name)) for field in fields(ServiceModel)}
    values: dict[str, Any] = {}
    for name, value in costs.items():
        if name not in known:
            raise CostError(f"{name!r} is no cost; there are {', '.join(known)}")
        if not 0 <= value < float("inf"):
            raise CostError(f"{name} must be a number of at least 0, not {value:g}")
        if known[name] is not float and value != int(value):
            raise CostError(f"{name} must be a whole number, not {value:g}")
        values[name] = known[name](value)
    model = replace(start, **values)
    for name in ("max_running", "steps_between", "batch_tokens", "pool_tokens", "bytes_per_token"):
        if getattr(model, name) < 1:
            raise CostError(f"{name} must be at least 1")
    return model


def _traits(asked: Mapping[str, Any]) -> tuple[WorkerTraits, ...]:
    """The attached workers' own; a cost that was given is for all."""
    return tuple(
        WorkerTraits(
            labels=tuple((key, value) for key, value in worker["labels"]),
            tenants=tuple(worker["tenants"]),
            window=0 if "window" in asked["costs"] else worker["window"],
            pool_tokens=0 if "pool_tokens" in asked["costs"] else worker["pool_tokens"],
        )
        for worker in asked["fleet"]
    )


def _told(label: str, outcome: Outcome, trace: Trace) -> dict[str, Any]:
    told = {
        field.name: getattr(outcome, field.name) for field in fields(Outcome) if field.name not in {"fates", "tenants"}
    }
    first_tokens = sorted(fate.first_token_s for fate in outcome.fates if fate.first_token_s is not None)
    counts = [max(1, round(percent / 100 * outcome.num_requests)) for percent in range(1, 101)]
    slices = [0] * NUM_TIME_SLICES
    start_s = trace.requests[0].at_s
    for request, fate in zip(trace.requests, outcome.fates, strict=True):
        if fate.finished_s is not None:
            share = (request.at_s + fate.finished_s - start_s) / outcome.duration_s
            slices[min(int(share * NUM_TIME_SLICES), NUM_TIME_SLICES - 1)] += fate.output_tokens
    return {
        **told,
        "label": label,
        "first_token": asdict(outcome.first_token),
        "time_per_output_token": asdict(outcome.time_per_output_token),
        "errors": dict(outcome.errors),
        "tenants": [asdict(tenant) for tenant in outcome.tenants],
        "first_token_curve_s": [first_tokens[count - 1] for count in counts if count <= len(first_tokens)],
        "output_tokens": slices,
    }


def _error(reason: str, field: str, message: str) -> dict[str, Any]:
    return {"error": {"reason": reason, "field": field, "message": message}}


if __name__ == "__main__":
    sys.exit(main())
