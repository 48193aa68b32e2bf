"""What operators are shown, as protobuf."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from control_plane.policy.problems import PolicyProblem
from control_plane.state.policies import AppliedPolicy
from control_plane.types import ControlPlaneView, FleetSnapshot, PolicySource, PolicyVersion
from control_plane.workers.codec import encode_status
from multitude.v1 import fleet_pb2

SOURCES: Final = {
    PolicySource.BUILT_IN: fleet_pb2.POLICY_SOURCE_BUILT_IN,
    PolicySource.FILE: fleet_pb2.POLICY_SOURCE_FILE,
    PolicySource.APPLIED: fleet_pb2.POLICY_SOURCE_APPLIED,
}


def encode_fleet(
    fleet: FleetSnapshot,
    policy: PolicyVersion,
    control_planes: Sequence[ControlPlaneView],
    *,
    is_state_reachable: bool,
) -> fleet_pb2.GetFleetResponse:
    """The fleet."""
    return fleet_pb2.GetFleetResponse(
        workers=[
            fleet_pb2.WorkerView(
                address=worker.address,
                is_attached=worker.status is not None,
                status=encode_status(replace(worker.status, is_residency_snapshot=True)) if worker.status else None,
                dispatched_count=worker.num_dispatched,
                is_draining=worker.is_draining,
            )
            for worker in fleet.workers
        ],
        queued_count=fleet.num_queued,
        dispatched_count=fleet.num_dispatched,
        policy=fleet_pb2.PolicyVersion(
            name=policy.name,
            digest=policy.digest,
            yaml=policy.text,
            pending_error=policy.pending_error,
            version=policy.version,
            source=SOURCES[policy.source],
            shadowed_file=policy.shadowed_file,
        ),
        is_state_store_reachable=is_state_reachable,
        control_planes=[
            fleet_pb2.ControlPlaneView(
                control_plane_id=view.control_plane_id,
                address=view.address,
                in_flight_count=view.num_in_flight,
                policy_version=view.policy_version,
                policy_digest=view.policy_digest,
            )
            for view in control_planes
        ],
    )


def encode_problem(problem: PolicyProblem) -> fleet_pb2.PolicyProblem:
    """What is wrong or doubtful in a policy."""
    return fleet_pb2.PolicyProblem(line=problem.line, path=problem.path, message=problem.message)


def encode_applied(applied: AppliedPolicy) -> fleet_pb2.AppliedPolicy:
    """One version of the history."""
    message = fleet_pb2.AppliedPolicy(
        version=applied.version,
        name=applied.name,
        digest=applied.digest,
        control_plane_id=applied.control_plane_id,
        restored_version=applied.restored_version,
    )
    message.apply_time.FromMilliseconds(applied.applied_ms)
    return message
