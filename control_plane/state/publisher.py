"""Writes what this control plane knows for others to see: its workers' load and residency, and itself."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from google.protobuf import json_format
from redis.asyncio import Redis

from control_plane.config import RedisConfig
from control_plane.core.types import ResidencyTier
from control_plane.state.control_planes import withdraw_control_plane, write_control_plane
from control_plane.state.keys import Keys
from control_plane.state.store import StateAway, StateStore
from control_plane.types import ControlPlaneView, FleetSnapshot, PolicyVersion
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
    ) -> None:
        """`fleet` and `policy` give the present state."""
        self._store = store
        self._keys = keys
        self._config = config
        self._control_plane_id = control_plane_id
        self._address = address
        self._fleet = fleet
        self._policy = policy
        self._published_residency: dict[str, Mapping[str, str]] = {}
        self._num_recoveries = 0

    @property
    def itself(self) -> ControlPlaneView:
        """This control plane as it is now."""
        fleet, policy = self._fleet(), self._policy()
        num_in_flight = fleet.num_queued + fleet.num_dispatched
        return ControlPlaneView(self._control_plane_id, self._address, num_in_flight, policy.version, policy.digest)

    async def run(self) -> None:
        """Publishes for ever; while Redis is away, what was to be written is dropped."""
        while True:
            with suppress(StateAway):
                await self.publish()
            await asyncio.sleep(self._config.publish_interval_s)

    async def publish(self) -> None:
        """Writes the present state. Raises StateAway."""
        if self._num_recoveries != self._store.num_recoveries:
            self._num_recoveries = self._store.num_recoveries
            self._published_residency = {}
        fleet = self._fleet()
        await self._store.probe(lambda redis: self._write_fleet(redis, fleet))
        await self._store.probe(lambda redis: write_control_plane(redis, self._keys, self.itself, self._config.ttl_s))

    async def withdraw(self) -> None:
        """Removes this control plane's own key."""
        try:
            await self._store.attempt(lambda redis: withdraw_control_plane(redis, self._keys, self._control_plane_id))
        except StateAway:
            return

    async def _write_fleet(self, redis: Redis, fleet: FleetSnapshot) -> None:
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
            await pipeline.execute()
        self._published_residency = residency
