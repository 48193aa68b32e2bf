"""Writes what this control plane knows for others to see: its workers' load and residency, and itself."""

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from google.protobuf import json_format
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from control_plane.config import RedisConfig
from control_plane.core.snapshot import WorkerSnapshot
from control_plane.core.types import ResidencyTier
from control_plane.state.control_planes import withdraw_control_plane, write_control_plane
from control_plane.state.keys import Keys
from control_plane.state.store import StateAway, StateStore
from control_plane.types import ControlPlaneView, PolicyVersion
from control_plane.workers.codec import encode_status

# Workers written in one go: a few milliseconds, in which no token is relayed.
BATCH = 25
# How often every worker is written before its keys run out.
TURNS_PER_TTL = 3


class Workers(Protocol):
    """The attached workers."""

    @property
    def worker_ids(self) -> list[str]:
        """Their ids."""

    def worker(self, worker_id: str) -> WorkerSnapshot | None:
        """One of them, if it still is."""


class Publisher:
    """Publishes on an interval: itself, and the workers whose turn it is, all of them thrice in a time to live."""

    def __init__(
        self,
        store: StateStore,
        keys: Keys,
        config: RedisConfig,
        *,
        control_plane_id: str,
        address: str,
        workers: Workers,
        num_in_flight: Callable[[], int],
        policy: Callable[[], PolicyVersion],
    ) -> None:
        """`num_in_flight` and `policy` give the present state."""
        self._store = store
        self._keys = keys
        self._config = config
        self._control_plane_id = control_plane_id
        self._address = address
        self._workers = workers
        self._num_in_flight = num_in_flight
        self._policy = policy
        self._turn: list[str] = []
        self._published: dict[str, Mapping[str, ResidencyTier]] = {}
        self._num_recoveries = 0

    @property
    def itself(self) -> ControlPlaneView:
        """This control plane as it is now."""
        policy = self._policy()
        return ControlPlaneView(
            self._control_plane_id, self._address, self._num_in_flight(), policy.version, policy.digest
        )

    async def run(self) -> None:
        """Publishes for ever; while Redis is away, what was to be written is dropped."""
        while True:
            with suppress(StateAway):
                await self.publish()
            await asyncio.sleep(self._config.publish_interval_s)

    async def publish(self) -> None:
        """Writes what is due. Raises StateAway."""
        if self._num_recoveries != self._store.num_recoveries:
            self._num_recoveries = self._store.num_recoveries
            self._published, self._turn = {}, []
        due = self._next()
        for start in range(0, len(due), BATCH):
            batch = due[start : start + BATCH]
            await self._store.probe(lambda redis, batch=batch: self._write(redis, batch))  # type: ignore[misc]
        await self._store.probe(lambda redis: write_control_plane(redis, self._keys, self.itself, self._config.ttl_s))

    async def withdraw(self) -> None:
        """Removes this control plane's own key."""
        try:
            await self._store.attempt(lambda redis: withdraw_control_plane(redis, self._keys, self._control_plane_id))
        except StateAway:
            return

    def _next(self) -> list[str]:
        """The workers whose turn it is."""
        worker_ids = self._workers.worker_ids
        if not self._turn:
            self._turn = worker_ids
            self._published = {each: self._published[each] for each in worker_ids if each in self._published}
        share = self._config.publish_interval_s / (self._config.ttl_s / TURNS_PER_TTL)
        count = math.ceil(len(worker_ids) * min(1.0, share))
        due, self._turn = self._turn[:count], self._turn[count:]
        return due

    async def _write(self, redis: Redis, worker_ids: list[str]) -> None:
        written = {}
        async with redis.pipeline(transaction=False) as pipeline:
            for worker_id in worker_ids:
                worker = self._workers.worker(worker_id)
                if worker is not None:
                    written[worker_id] = self._put(pipeline, worker)
            await pipeline.execute()
        self._published.update(written)

    def _put(self, pipeline: Pipeline, worker: WorkerSnapshot) -> Mapping[str, ResidencyTier]:
        """Queues a worker's writes; returns the residency that is then published."""
        worker_id, ttl_ms = worker.status.worker_id, round(self._config.ttl_s * 1000)
        load = encode_status(replace(worker.status, residency=(), is_residency_snapshot=False))
        pipeline.set(self._keys.load(worker_id), json_format.MessageToJson(load, indent=None), px=ttl_ms)
        residency, key = dict(worker.residency), self._keys.residency(worker_id)
        if residency != self._published.get(worker_id):
            pipeline.delete(key)
            if residency:
                pipeline.hset(key, items=[part for digest, tier in residency.items() for part in (digest, tier.value)])
        pipeline.pexpire(key, ttl_ms)
        return residency
