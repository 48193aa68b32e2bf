"""The workers' leases, as they stand in Redis."""

import logging

from google.protobuf import json_format
from redis.asyncio import Redis

from control_plane.state.keys import Keys
from control_plane.types import Lease
from multitude.v1 import worker_pb2

logger = logging.getLogger(__name__)


async def read_leases(redis: Redis, keys: Keys) -> tuple[Lease, ...]:
    """All leases of the fleet that have not run out, by worker id; one that cannot be read is logged and left out."""
    lease_keys = sorted([str(key) async for key in redis.scan_iter(match=keys.any_worker, count=1000)])
    if not lease_keys:
        return ()
    texts = await redis.mget(lease_keys)
    leases = {}
    for key, text in zip(lease_keys, texts, strict=True):
        lease = _decode(key, str(text)) if text is not None else None
        if lease is not None:
            leases[lease.worker_id] = lease
    return tuple(leases[worker_id] for worker_id in sorted(leases))


def _decode(key: str, text: str) -> Lease | None:
    try:
        message = json_format.Parse(text, worker_pb2.WorkerLease(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        logger.warning("the lease %s cannot be read: %s", key, error)
        return None
    if not message.worker_id or not message.address:
        logger.warning("the lease %s names no worker or no address", key)
        return None
    return Lease(
        worker_id=message.worker_id,
        address=message.address,
        base_model=message.base_model,
        context_length=message.context_length,
        start_time_ms=message.start_time_ms,
    )
