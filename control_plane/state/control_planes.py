"""The control planes of a fleet, as each describes itself to the others."""

import json
from typing import Any

from redis.asyncio import Redis

from control_plane.state.keys import NOTE_CONTROL_PLANE, Keys
from control_plane.types import ControlPlaneView


async def write_control_plane(redis: Redis, keys: Keys, view: ControlPlaneView, ttl_s: float) -> None:
    """Describes one, until it is written again or `ttl_s` has passed."""
    text = json.dumps(
        {
            "address": view.address,
            "in_flight_count": view.num_in_flight,
            "policy_version": view.policy_version,
            "policy_digest": view.policy_digest,
        }
    )
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(keys.control_plane(view.control_plane_id), text, px=round(ttl_s * 1000))
        pipeline.eval(NOTE_CONTROL_PLANE, 1, keys.control_planes, view.control_plane_id, str(ttl_s))
        await pipeline.execute()


async def withdraw_control_plane(redis: Redis, keys: Keys, control_plane_id: str) -> None:
    """Takes one out."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.delete(keys.control_plane(control_plane_id))
        pipeline.zrem(keys.control_planes, control_plane_id)
        await pipeline.execute()


async def read_control_planes(redis: Redis, keys: Keys) -> tuple[ControlPlaneView, ...]:
    """All that live, by id."""
    ids = sorted(str(each) for each in await redis.zrange(keys.control_planes, 0, -1))
    texts = await redis.mget([keys.control_plane(each) for each in ids]) if ids else []
    return tuple(_decode(each, text) for each, text in zip(ids, texts, strict=True) if text is not None)


def _decode(control_plane_id: str, text: Any) -> ControlPlaneView:
    found = json.loads(text)
    return ControlPlaneView(
        control_plane_id=control_plane_id,
        address=found["address"],
        num_in_flight=int(found["in_flight_count"]),
        policy_version=int(found.get("policy_version", 0)),
        policy_digest=found["policy_digest"],
    )
