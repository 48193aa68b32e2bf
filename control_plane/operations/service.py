"""FleetService: what operators call."""

import asyncio
import re
from collections.abc import Callable
from typing import Final

import grpc

from control_plane.edge import unary_method
from control_plane.errors import PageInvalid, WorkerIdInvalid
from control_plane.operations import codec
from control_plane.operations.explain import Explainer
from control_plane.operations.simulator import Simulator
from control_plane.policy.document import PolicyError, load_policy
from control_plane.policy.warnings import MeasuredService
from control_plane.runtime.policy_keeper import PolicyKeeper
from control_plane.simulation.service import WorkerTraits
from control_plane.state.control_planes import read_control_planes
from control_plane.state.keys import Keys
from control_plane.state.store import StateAway, StateStore
from control_plane.types import ControlPlaneView, FleetSnapshot
from control_plane.workers.drains import DrainKeeper
from multitude.v1 import fleet_pb2

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1000
WORKER_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class FleetService:
    """Shows the fleet and changes its policy."""

    def __init__(
        self,
        *,
        fleet: Callable[[], FleetSnapshot],
        itself: Callable[[], ControlPlaneView],
        measured: Callable[[], MeasuredService],
        policies: PolicyKeeper,
        state: StateStore,
        keys: Keys,
        drains: DrainKeeper,
        explainer: Explainer,
        simulator: Simulator,
    ) -> None:
        """`fleet`, `itself` and `measured` give the present state of workers and control plane, and measured rates."""
        self._fleet = fleet
        self._itself = itself
        self._measured = measured
        self._policies = policies
        self._state = state
        self._keys = keys
        self._drains = drains
        self._explainer = explainer
        self._simulator = simulator

    async def get_fleet(self, _message: fleet_pb2.GetFleetRequest) -> fleet_pb2.GetFleetResponse:
        """The fleet as it is."""
        itself = self._itself()
        try:
            others = await self._state.attempt(lambda redis: read_control_planes(redis, self._keys))
        except StateAway:
            others = ()
        control_planes = [itself, *(each for each in others if each.control_plane_id != itself.control_plane_id)]
        return codec.encode_fleet(
            self._fleet(), self._policies.in_force, control_planes, is_state_reachable=self._state.is_reachable
        )

    async def check_policy(self, message: fleet_pb2.CheckPolicyRequest) -> fleet_pb2.CheckPolicyResponse:
        """What is wrong with a policy file, or doubtful at what this fleet was measured to do."""
        measured = self._measured()
        try:
            doubts = await asyncio.to_thread(lambda: load_policy(message.yaml).doubts(measured))
        except PolicyError as error:
            return fleet_pb2.CheckPolicyResponse(problems=map(codec.encode_problem, error.problems))
        return fleet_pb2.CheckPolicyResponse(warnings=map(codec.encode_problem, doubts))

    async def apply_policy(self, message: fleet_pb2.ApplyPolicyRequest) -> fleet_pb2.ApplyPolicyResponse:
        """A new version for the whole fleet."""
        return fleet_pb2.ApplyPolicyResponse(applied=codec.encode_applied(await self._policies.apply(message.yaml)))

    async def list_policies(self, message: fleet_pb2.ListPoliciesRequest) -> fleet_pb2.ListPoliciesResponse:
        """One page of the versions; a page's token is the first version that it leaves out."""
        if not 0 <= message.page_size <= MAX_PAGE_SIZE:
            raise PageInvalid("page_size", f"is {message.page_size}; it must be in [1, {MAX_PAGE_SIZE}], or 0 for 100")
        if message.page_token and not message.page_token.isdecimal():
            raise PageInvalid("page_token", "is not one that ListPolicies gave")
        history = await self._policies.history()
        if message.page_token:
            history = tuple(applied for applied in history if applied.version <= int(message.page_token))
        size = message.page_size or DEFAULT_PAGE_SIZE
        return fleet_pb2.ListPoliciesResponse(
            policies=map(codec.encode_applied, history[:size]),
            next_page_token=str(history[size].version) if len(history) > size else "",
        )

    async def roll_back_policy(self, message: fleet_pb2.RollBackPolicyRequest) -> fleet_pb2.RollBackPolicyResponse:
        """An earlier version again."""
        version = message.version if message.HasField("version") else None
        applied = await self._policies.roll_back(version)
        return fleet_pb2.RollBackPolicyResponse(applied=codec.encode_applied(applied))

    async def drain_worker(self, message: fleet_pb2.DrainWorkerRequest) -> fleet_pb2.DrainWorkerResponse:
        """A worker goes out of service, or back."""
        if not WORKER_ID.fullmatch(message.worker_id):
            raise WorkerIdInvalid("worker_id", "must be 1 to 128 letters, digits, `.`, `_` and `-`")
        await self._drains.set(message.worker_id, is_draining=message.is_draining)
        is_attached = any(worker.worker_id == message.worker_id for worker in self._fleet().workers)
        return fleet_pb2.DrainWorkerResponse(is_attached=is_attached)

    async def explain_placement(self, message: fleet_pb2.ExplainPlacementRequest) -> fleet_pb2.ExplainPlacementResponse:
        """Why a request went where it went, and where one would go now."""
        return await self._explainer.explain(message)

    async def simulate_policies(self, message: fleet_pb2.SimulatePoliciesRequest) -> fleet_pb2.SimulatePoliciesResponse:
        """What policies would make of a trace."""
        statuses = [worker.status for worker in self._fleet().workers if worker.status is not None]
        traits = [
            WorkerTraits(each.labels, each.tenants, each.request_window, each.total_pages * each.block_size)
            for each in statuses
        ]
        return await self._simulator.simulate(message, traits)

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for a server."""
        return grpc.method_handlers_generic_handler(
            fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
            {
                "GetFleet": unary_method(self.get_fleet, fleet_pb2.GetFleetRequest),
                "CheckPolicy": unary_method(self.check_policy, fleet_pb2.CheckPolicyRequest),
                "ApplyPolicy": unary_method(self.apply_policy, fleet_pb2.ApplyPolicyRequest),
                "ListPolicies": unary_method(self.list_policies, fleet_pb2.ListPoliciesRequest),
                "RollBackPolicy": unary_method(self.roll_back_policy, fleet_pb2.RollBackPolicyRequest),
                "DrainWorker": unary_method(self.drain_worker, fleet_pb2.DrainWorkerRequest),
                "ExplainPlacement": unary_method(self.explain_placement, fleet_pb2.ExplainPlacementRequest),
                "SimulatePolicies": unary_method(self.simulate_policies, fleet_pb2.SimulatePoliciesRequest),
            },
        )
