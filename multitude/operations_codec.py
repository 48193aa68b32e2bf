"""Between the client's types and the protos of what operators call."""

import zlib
from datetime import UTC
from typing import TypedDict

from multitude import types
from multitude.v1 import fleet_pb2

# Traces above this many characters go compressed: a message holds 16 MiB.
_MAX_PLAIN_TRACE = 1 << 20


class TraceFields(TypedDict, total=False):
    """How a message holds a trace."""

    trace: str
    compressed_trace: bytes


def trace_to_proto(trace: str) -> TraceFields:
    """A trace as it is, or compressed if it is long."""
    if len(trace) <= _MAX_PLAIN_TRACE:
        return {"trace": trace}
    return {"compressed_trace": zlib.compress(trace.encode())}


def applied_from_proto(message: fleet_pb2.AppliedPolicy) -> types.AppliedPolicy:
    """An AppliedPolicy."""
    return types.AppliedPolicy(
        version=message.version,
        name=message.name,
        digest=message.digest,
        apply_time=message.apply_time.ToDatetime(tzinfo=UTC),
        control_plane_id=message.control_plane_id,
        restored_version=message.restored_version if message.HasField("restored_version") else None,
    )


def explanation_from_proto(message: fleet_pb2.ExplainPlacementResponse) -> types.Explanation:
    """An Explanation."""
    decision = message.decision
    return types.Explanation(
        decision=types.PlacementDecision(
            worker_id=decision.worker_id,
            profile=decision.profile,
            picker=decision.picker,
            emptied_by=decision.emptied_by,
            verdicts=tuple(
                types.WorkerVerdict(
                    verdict.worker_id,
                    tuple(verdict.refused_by),
                    tuple(types.ScoreTerm(term.scorer, term.weight, term.value) for term in verdict.scores),
                    verdict.score,
                )
                for verdict in decision.verdicts
            ),
            policy_name=decision.policy_name,
            policy_digest=decision.policy_digest,
        ),
        story=_story_from_proto(message.story) if message.HasField("story") else None,
    )


def outcome_from_proto(message: fleet_pb2.SimulatedOutcome) -> types.SimulatedOutcome:
    """A SimulatedOutcome."""
    return types.SimulatedOutcome(
        label=message.label,
        num_requests=message.request_count,
        num_finished=message.finished_count,
        attainment=message.attainment,
        satisfaction=message.satisfaction,
        fairness=message.fairness,
        first_token=_times_from_proto(message.first_token),
        output_token=_times_from_proto(message.output_token),
        output_tokens_per_s=message.output_tokens_per_s,
        requests_per_s=message.requests_per_s,
        num_adapter_loads=message.adapter_load_count,
        num_adapter_fetches=message.adapter_fetch_count,
        load_balance=message.load_balance,
        errors=dict(message.error_counts),
        tenants=tuple(
            types.SimulatedTenant(
                tenant.tenant, tenant.request_count, tenant.attainment, tenant.error_count, tenant.output_token_count
            )
            for tenant in message.tenants
        ),
        duration_ms=message.duration_ms,
        first_token_curve_ms=tuple(message.first_token_curve_ms),
        output_token_counts=tuple(message.output_token_counts),
        prediction_error_ms=message.prediction_error_ms,
    )


def _story_from_proto(message: fleet_pb2.RequestStory) -> types.RequestStory:
    return types.RequestStory(
        request_id=message.request_id,
        tenant=message.tenant,
        adapter=message.adapter,
        adapter_digest=message.adapter_digest,
        arrival_time=message.arrival_time.ToDatetime(tzinfo=UTC),
        state=message.state,
        policy_digest=message.policy_digest,
        placements=tuple(
            types.PlacementStep(step.worker_id, step.placed_ms, step.reason) for step in message.placements
        ),
        first_token_ms=message.first_token_ms if message.HasField("first_token_ms") else None,
        ended_ms=message.ended_ms if message.HasField("ended_ms") else None,
        num_prompt_tokens=message.prompt_token_count,
        num_output_tokens=message.output_token_count,
        error_reason=message.error_reason,
        error_message=message.error_message,
        control_plane_id=message.control_plane_id,
    )


def _times_from_proto(message: fleet_pb2.SimulatedTimes) -> types.SimulatedTimes:
    return types.SimulatedTimes(message.p50_ms, message.p90_ms, message.p99_ms, message.mean_ms)
