"""Writes what this control plane knows for others to see: its workers' load and residency, itself, its policy."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from google.protobuf import json_format
from redis.asyncio import Redis

from control_plane.config import RedisConfig
from control_plane.core.types import ResidencyTier
from control_plane.state.keys import ADD_POLICY, Keys
from control_plane.state.store import StateAway, StateStore
from control_plane.types import FleetSnapshot, PolicyVersion
from control_plane.workers.codec import encode_status


class Publisher:
    """Publishes on an interval, and everything again after Redis was away."""

    def __init__(
        self,
        store: StateStore,
        keys: Keys,
        config: RedisConfig,
        *,
        control_plane_id: str,
        address: str,
        fleet: Callable[[], FleetSnapshot],
        policy: Callable[[], PolicyVersion],
        wall_ms: Callable[[], int],
    ) -> None:
        """`fleet` and `policy` give the present state; `wall_ms` is the time of day in ms since the epoch."""
        self._store = store
        self._keys = keys
        self._config = config
        self._control_plane_id = control_plane_id
        self._address = address
        self._fleet = fleet
        self._policy = policy
        self._wall_ms = wall_ms
        self._published_residency: dict[str, Mapping[str, str]] = {}
        self._published_policy = ""
        self._num_recoveries = 0

    async def run(self) -> None:
        """Publishes for ever; while Redis is away, what was to be written is dropped."""
        while True:
            try:
                await self.publish()
            except StateAway:
                self._published_policy = ""
            await asyncio.sleep(self._config.publish_interval_s)

    async def publish(self) -> None:
        """Writes the present state. Raises StateAway."""
        if self._num_recoveries != self._store.num_recoveries:
            self._num_recoveries = self._store.num_recoveries
            self._published_residency = {}
            self._published_policy = ""
        fleet, policy = self._fleet(), self._policy()
        await self._store.probe(lambda redis: self._write_fleet(redis, fleet, policy.digest))
        if policy.digest != self._published_policy:
            await self._store.probe(lambda redis: self._write_policy(redis, policy))
            self._published_policy = policy.digest

    async def withdraw(self) -> None:
        """Removes this control plane's own key."""
        try:
            await self._store.attempt(lambda redis: redis.delete(self._keys.control_plane(self._control_plane_id)))
        except StateAway:
            return

    async def _write_fleet(self, redis: Redis, fleet: FleetSnapshot, policy_digest: str) -> None:
        ttl_ms = round(self._config.ttl_s * 1000)
        residency: dict[str, Mapping[str, str]] = {}
        async with redis.pipeline(transaction=False) as pipeline:
            for worker in fleet.workers:
                if worker.status is None:
                    continue
                load = encode_status(replace(worker.status, residency=(), is_residency_snapshot=False))
                pipeline.set(self._keys.load(worker.worker_id), json_format.MessageToJson(load, indent=None), px=ttl_ms)
                tiers: dict[str, str] = {
                    digest: tier.value for digest, tier in worker.status.residency if tier is not ResidencyTier.NONE
                }
                residency[worker.worker_id] = tiers
                key = self._keys.residency(worker.worker_id)
                if tiers != self._published_residency.get(worker.worker_id):
                    pipeline.delete(key)
                    if tiers:
                        pipeline.hset(key, items=[part for item in tiers.items() for part in item])
                pipeline.pexpire(key, ttl_ms)
            itself = {
                "address": self._address,
                "in_flight_count": fleet.num_queued + fleet.num_dispatched,
                "policy_digest": policy_digest,
            }
            pipeline.set(self._keys.control_plane(self._control_plane_id), json.dumps(itself), px=ttl_ms)
            await pipeline.execute()
        self._published_residency = residency

    async def _write_policy(self, redis: Redis, policy: PolicyVersion) -> None:
        entry = {
            "digest": policy.digest,
            "name": policy.name,
            "applied_ms": self._wall_ms(),
            "control_plane_id": self._control_plane_id,
        }
        await redis.eval(
            ADD_POLICY,
            2,
            self._keys.policies,
            self._keys.policy_text_prefix + policy.digest,
            json.dumps(entry),
            policy.digest,
            policy.text,
            str(self._config.policy_history),
            self._keys.policy_text_prefix,
        )
