"""The other control planes of the fleet, asked for what this one does not know."""

import asyncio

import grpc

from control_plane.state.control_planes import read_control_planes
from control_plane.state.keys import Keys
from control_plane.state.store import StateAway, StateStore
from multitude.v1 import fleet_pb2, fleet_pb2_grpc

# One that does not answer within this is taken for one that does not know.
TIMEOUT_S = 2.0


class Neighbours:
    """Asks all others at once; the first that knows answers."""

    def __init__(self, state: StateStore, keys: Keys, own_id: str) -> None:
        self._state = state
        self._keys = keys
        self._own_id = own_id

    async def explain(self, request_id: str) -> fleet_pb2.ExplainPlacementResponse | None:
        """What another control plane says of a request; None if none knows it."""
        try:
            views = await self._state.attempt(lambda redis: read_control_planes(redis, self._keys))
        except StateAway:
            return None
        addresses = [view.address for view in views if view.control_plane_id != self._own_id]
        questions = [asyncio.create_task(_ask(address, request_id)) for address in addresses]
        try:
            for question in asyncio.as_completed(questions):
                answer = await question
                if answer is not None:
                    return answer
        finally:
            for question in questions:
                question.cancel()
        return None


async def _ask(address: str, request_id: str) -> fleet_pb2.ExplainPlacementResponse | None:
    async with grpc.aio.insecure_channel(address) as channel:
        question = fleet_pb2.ExplainPlacementRequest(request_id=request_id, is_local_only=True)
        try:
            answer = await fleet_pb2_grpc.FleetServiceStub(channel).ExplainPlacement(question, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return None
    assert isinstance(answer, fleet_pb2.ExplainPlacementResponse)
    return answer
