"""The control plane put together: started in order, drained, and stopped in the opposite order."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from control_plane.catalog import Catalog
from control_plane.config import ControlPlaneConfig
from control_plane.core.director import Director
from control_plane.core.types import PolicyChanged
from control_plane.observation.observation import Observation
from control_plane.operations.explain import Explainer
from control_plane.operations.measured import measured_service
from control_plane.operations.neighbours import Neighbours
from control_plane.operations.service import FleetService
from control_plane.operations.simulator import Simulator
from control_plane.runtime.driver import Driver
from control_plane.runtime.fleet_view import view_fleet
from control_plane.runtime.policy_file import PolicyFile
from control_plane.runtime.policy_keeper import PolicyKeeper
from control_plane.runtime.supervision import keep_running
from control_plane.server import GenerationService
from control_plane.state.keys import Keys
from control_plane.state.leases import read_leases
from control_plane.state.ownership import Ownership
from control_plane.state.policies import AppliedPolicies
from control_plane.state.publisher import Publisher
from control_plane.state.store import StateStore
from control_plane.state.tenants import TenantTotals
from control_plane.store_client import StoreClient
from control_plane.text.encoder import PromptEncoder
from control_plane.text.model_directory import load_tokenizer, read_facts
from control_plane.types import FleetSnapshot
from control_plane.workers.connection import WorkerConnection
from control_plane.workers.directory import WorkerDirectory
from control_plane.workers.drains import DrainKeeper
from multitude.v1 import fleet_pb2, generation_pb2

logger = logging.getLogger(__name__)

# How long streams whose requests ended may take to write their last message.
LAST_WRITES_S = 1.0

SERVICES = (
    generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name,
)


class ListenError(Exception):
    """The address to listen on cannot be had."""


class ControlPlane:
    """One control plane. `start` makes it serve, `stop` drains it; both once."""

    def __init__(self, config: ControlPlaneConfig) -> None:
        """Reads the model directory and the policy. Raises ModelDirectoryError, PolicyError, PolicyFileError."""
        self._config = config
        self.control_plane_id = config.control_plane_id or f"control-plane-{uuid.uuid4().hex[:12]}"
        # Where it serves, once started.
        self.address = ""
        # Where its metrics are, once started; empty if nowhere.
        self.metrics_address = ""
        facts = read_facts(config.model.path, config.model.served_name, config.model.context_length)
        policy_file = PolicyFile(config.policy_file)
        self._director = Director(policy_file.document.policy, random.Random())  # noqa: S311
        self._observation = Observation(
            self._director, config.metrics, max_recent=config.recent_requests, clock=time.monotonic
        )
        self._driver = Driver(self._observation.core, time.monotonic)
        self._encoder = PromptEncoder(
            load_tokenizer(config.model.path),
            facts,
            max_prompt_characters=config.limits.max_prompt_characters,
            inline_characters=config.model.inline_characters,
            max_waiting=config.model.max_waiting_texts,
        )
        self._facts = facts
        self._state = StateStore(config.redis)
        self._keys = Keys(config.redis.fleet)
        self._policies = PolicyKeeper(
            policy_file,
            AppliedPolicies(self._state, self._keys, config.redis.policy_history),
            control_plane_id=self.control_plane_id,
            on_change=lambda policy: self._driver.report(PolicyChanged(policy)),
            wall_ms=_wall_ms,
        )
        self._ownership = Ownership(self._state, self._keys, self.control_plane_id, config.redis.ttl_s)
        self._directory = WorkerDirectory(
            config.workers,
            facts.name,
            read_leases=lambda: self._state.probe(lambda redis: read_leases(redis, self._keys)),
            connect=self._connection,
            fleet=self._driver,
            clock=time.monotonic,
        )
        self._drains = DrainKeeper(self._state, self._keys, self._driver.report)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Self:
        """Serves. Raises ListenError."""
        config = self._config
        self._store = (
            StoreClient(
                config.store_address,
                timeout_s=config.catalog.timeout_s,
                max_message_bytes=config.max_message_bytes,
            )
            if config.store_address
            else None
        )
        self._catalog = Catalog(
            self._store,
            self._facts.name,
            ttl_s=config.catalog.cache_ttl_s,
            max_entries=config.catalog.cache_entries,
            clock=time.monotonic,
        )
        self._generation = GenerationService(
            driver=self._driver,
            encoder=self._encoder,
            catalog=self._catalog,
            ownership=self._ownership,
            facts=self._facts,
            limits=config.limits,
            tenants=config.tenants,
        )
        await self._policies.catch_up()
        await self._drains.catch_up()
        self._serve_metrics()
        await self._start_server()
        self._run("the worker directory", self._directory.run)
        self._run("the metrics' labels", self._observation.rotate_forever)
        self._run("the clock", lambda: self._driver.tick_forever(config.tick_s))
        self._run("the policy file's watch", lambda: self._policies.watch_file(config.policy_poll_s))
        if self._state.is_configured:
            self._run_shared()
        return self

    async def stop(self, hurry: asyncio.Event | None = None) -> None:
        """Takes nothing new, lets what is in flight end for `drain_seconds` or until `hurry` is set, and stops."""
        self._generation.drain()
        await self._health.enter_graceful_shutdown()
        await _first_of(self._driver.wait_idle(), hurry, self._config.drain_seconds)
        await self._server.stop(LAST_WRITES_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._directory.close()
        await self._ownership.flush()
        await self._publisher.withdraw()
        await self._state.close()
        if self._store is not None:
            await self._store.close()
        self._encoder.close()
        await self._observation.close()

    def _run_shared(self) -> None:
        """The loops that keep up with Redis."""
        config = self._config
        totals = TenantTotals(
            self._state,
            self._keys,
            self._driver,
            interval_s=config.redis.share_interval_s,
            ttl_s=config.redis.tenant_ttl_s,
        )
        self._driver.on_charge = totals.charge
        self._run("the tenants' totals", totals.run)
        self._run("the applied policies", lambda: self._policies.follow(config.policy_poll_s))
        self._run("the workers' drains", lambda: self._drains.follow(config.workers.lease_poll_s))
        self._run("the publisher", self._publisher.run)
        self._run("the release of requests", self._ownership.release_forever)
        self._run("the renewal of requests", self._ownership.renew_forever)

    async def _start_server(self) -> None:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", self._config.max_message_bytes),
            ("grpc.max_send_message_length", self._config.max_message_bytes),
            # gRPC drops calls of a burst at random from the first number on; admission refuses with a reason instead.
            ("grpc.server.max_pending_requests", self._config.max_pending_calls),
            ("grpc.server.max_pending_requests_hard_limit", self._config.max_pending_calls),
            # A second process on the same port would take half of the calls.
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((self._generation.handler(), self._fleet_service().handler()))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            port = self._server.add_insecure_port(self._config.listen)
        except RuntimeError as error:
            raise ListenError(f"listen: cannot listen on {self._config.listen}: {error}") from None
        self.address = f"{self._config.listen.rpartition(':')[0]}:{port}"
        self._publisher = Publisher(
            self._state,
            self._keys,
            self._config.redis,
            control_plane_id=self.control_plane_id,
            address=self._config.advertise_address or self.address,
            workers=self._director,
            num_in_flight=lambda: self._driver.num_requests,
            policy=lambda: self._policies.in_force,
        )
        for service in ("", *SERVICES):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()

    def _fleet_service(self) -> FleetService:
        return FleetService(
            fleet=self._fleet,
            itself=lambda: self._publisher.itself,
            measured=lambda: measured_service(
                self._director.snapshot(with_residency=False), self._facts.context_length
            ),
            policies=self._policies,
            state=self._state,
            keys=self._keys,
            drains=self._drains,
            explainer=Explainer(
                self._director,
                self._observation,
                self._catalog,
                Neighbours(self._state, self._keys, self.control_plane_id),
                control_plane_id=self.control_plane_id,
                facts=self._facts,
                limits=self._config.limits,
                tenants=self._config.tenants,
                clock=time.monotonic,
                wall_ms=_wall_ms,
            ),
            simulator=Simulator(self._config.simulation_timeout_s),
        )

    def _serve_metrics(self) -> None:
        try:
            self._observation.serve(
                policy=lambda: self._policies.in_force,
                num_chunks=lambda: self._generation.num_chunks,
                is_state_reachable=lambda: self._state.is_reachable,
            )
        except OSError as error:
            raise ListenError(f"metrics.listen: cannot listen on {self._config.metrics.listen}: {error}") from None
        self.metrics_address = self._observation.address

    def _run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(keep_running(name, loop)))

    def _connection(self, address: str) -> WorkerConnection:
        return WorkerConnection(
            address,
            fleet=self._driver,
            control_plane_id=self.control_plane_id,
            base_model=self._facts.name,
            config=self._config.workers,
            max_message_bytes=self._config.max_message_bytes,
        )

    def _fleet(self) -> FleetSnapshot:
        return view_fleet(self._director.snapshot(), self._directory.connections)


def _wall_ms() -> int:
    return round(time.time() * 1000)


async def _first_of(idle: Any, hurry: asyncio.Event | None, timeout_s: float) -> None:
    waits = [asyncio.ensure_future(idle)]
    if hurry is not None:
        waits.append(asyncio.ensure_future(hurry.wait()))
    _, pending = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
