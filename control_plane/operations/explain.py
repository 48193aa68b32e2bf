"""Why a request went where it went, and where it would go now."""

import random
from collections.abc import Callable
from dataclasses import replace

from control_plane.catalog import Catalog
from control_plane.config import TENANT_PATTERN, LimitsConfig, TenantsConfig
from control_plane.core.director import Director
from control_plane.core.placement.explanation import Explanation
from control_plane.core.types import Request
from control_plane.errors import ExplainOutOfRange, ExplainSubjectMissing, RequestNotRemembered
from control_plane.observation.observation import Observation
from control_plane.observation.record import RequestRecord
from control_plane.operations.neighbours import Neighbours
from control_plane.types import ModelFacts
from multitude.v1 import fleet_pb2

DEFAULT_TOKENS = 128


class Explainer:
    """Asks the director what it would do, and remembers what it did."""

    def __init__(
        self,
        director: Director,
        observation: Observation,
        catalog: Catalog,
        neighbours: Neighbours,
        *,
        control_plane_id: str,
        facts: ModelFacts,
        limits: LimitsConfig,
        tenants: TenantsConfig,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        """`clock` is the director's; `wall_ms` is the time of day in ms since the epoch."""
        self._director = director
        self._observation = observation
        self._catalog = catalog
        self._neighbours = neighbours
        self._control_plane_id = control_plane_id
        self._facts = facts
        self._limits = limits
        self._tenants = tenants
        self._clock = clock
        self._wall_ms = wall_ms

    async def explain(self, message: fleet_pb2.ExplainPlacementRequest) -> fleet_pb2.ExplainPlacementResponse:
        """The whole answer. Raises RequestNotRemembered, ExplainSubjectMissing, ExplainOutOfRange, AdapterNotFound."""
        story: fleet_pb2.RequestStory | None = None
        match message.WhichOneof("subject"):
            case "request_id":
                record = self._observation.find(message.request_id)
                if record is None:
                    return await self._told_elsewhere(message)
                # What is remembered of one that ended has no prompt left, only its length.
                request = replace(record.request, prompt_token_ids=(0,) * record.num_prompt_tokens)
                story = self._story(record)
            case "adapter":
                request = await self._made_up(message)
            case _:
                raise ExplainSubjectMissing("", "set request_id or adapter")
        explanation = self._director.explain(request, random.Random(), self._clock())  # noqa: S311
        return fleet_pb2.ExplainPlacementResponse(story=story, decision=self._decision(explanation))

    async def _told_elsewhere(self, message: fleet_pb2.ExplainPlacementRequest) -> fleet_pb2.ExplainPlacementResponse:
        answer = None if message.is_local_only else await self._neighbours.explain(message.request_id)
        if answer is None:
            size = self._observation.recent.size
            raise RequestNotRemembered(
                f"request_id: {message.request_id!r} is not in flight, nor among the last {size} requests that each"
                " control plane remembers; correct it, or raise recent_requests",
                metadata={"field": "request_id"},
            )
        return answer

    async def _made_up(self, message: fleet_pb2.ExplainPlacementRequest) -> Request:
        num_prompt_tokens = message.prompt_token_count or DEFAULT_TOKENS
        max_tokens = message.max_tokens or DEFAULT_TOKENS
        for name, value in (("prompt_token_count", num_prompt_tokens), ("max_tokens", max_tokens)):
            if not 1 <= value <= self._facts.context_length:
                raise ExplainOutOfRange(
                    name, f"is {value}; it must be in [1, {self._facts.context_length}], or 0 for 128"
                )
        if abs(message.priority) > self._limits.max_priority:
            raise ExplainOutOfRange(
                "priority", f"is {message.priority}; it must be at most {self._limits.max_priority}"
            )
        if message.tenant and not TENANT_PATTERN.fullmatch(message.tenant):
            raise ExplainOutOfRange("tenant", "is no tenant's name")
        return Request(
            request_id="",
            prompt_token_ids=(0,) * num_prompt_tokens,
            max_tokens=max_tokens,
            first_token_deadline_s=0.0,
            adapter=await self._catalog.resolve(message.adapter),
            priority=message.priority,
            tenant=message.tenant or self._tenants.default,
            base_model=self._facts.name,
        )

    def _story(self, record: RequestRecord) -> fleet_pb2.RequestStory:
        request, adapter = record.request, record.request.adapter
        story = fleet_pb2.RequestStory(
            request_id=request.request_id,
            tenant=request.tenant,
            adapter=record.adapter_id,
            adapter_digest=adapter.digest if adapter else "",
            state=record.state,
            policy_digest=record.policy_digest,
            placements=[
                fleet_pb2.PlacementStep(
                    worker_id=placement.worker_id,
                    placed_ms=_ms(placement.at - record.arrived_at),
                    reason=placement.reason.value,
                )
                for placement in record.placements
            ],
            first_token_ms=None if record.first_token_at is None else _ms(record.first_token_at - record.arrived_at),
            ended_ms=None if record.ended_at is None else _ms(record.ended_at - record.arrived_at),
            prompt_token_count=record.num_prompt_tokens,
            output_token_count=record.num_output_tokens,
            error_reason=record.error_reason,
            error_message=record.error_message,
            control_plane_id=self._control_plane_id,
        )
        story.arrival_time.FromMilliseconds(self._wall_ms() - round(_ms(self._clock() - record.arrived_at)))
        return story

    def _decision(self, explanation: Explanation) -> fleet_pb2.PlacementDecision:
        policy = self._director.policy
        return fleet_pb2.PlacementDecision(
            worker_id=explanation.worker_id or "",
            profile=explanation.profile,
            picker=explanation.picker,
            emptied_by=explanation.emptied_by or "",
            verdicts=[
                fleet_pb2.WorkerVerdict(
                    worker_id=verdict.worker_id,
                    refused_by=verdict.refused_by,
                    scores=[
                        fleet_pb2.ScoreTerm(scorer=score.scorer, weight=score.weight, value=score.value)
                        for score in verdict.scores
                    ],
                    score=verdict.total,
                )
                for verdict in explanation.verdicts
            ],
            policy_name=policy.name,
            policy_digest=policy.digest,
        )


def _ms(seconds: float) -> float:
    return seconds * 1000
