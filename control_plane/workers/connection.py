"""The way to one address: dialled, kept, and dialled again when it breaks."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import grpc

from control_plane.config import WorkersConfig
from control_plane.core.types import WorkerStatus
from control_plane.workers.pacing import CreditPacer
from control_plane.workers.session import Fleet, SessionRefused, WorkerSession
from multitude.v1 import worker_pb2, worker_pb2_grpc

logger = logging.getLogger(__name__)


class WorkerConnection:
    """Keeps one session after another to the worker on `address`."""

    def __init__(
        self,
        address: str,
        *,
        fleet: Fleet,
        control_plane_id: str,
        base_model: str,
        config: WorkersConfig,
        max_message_bytes: int,
    ) -> None:
        self.address = address
        self._fleet = fleet
        self._attach = worker_pb2.DispatchRequest(
            attach=worker_pb2.Attach(
                control_plane_id=control_plane_id, base_model=base_model, step_credit_count=config.step_credits
            )
        )
        self._config = config
        self._channel_options: Final = [
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.keepalive_time_ms", round(config.keepalive_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout_s * 1000)),
            # When to dial again is decided here: a new channel dials at once, whatever an older one met.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._pacer = CreditPacer(config.step_cpu_share, config.step_delay_s)
        self._session: WorkerSession | None = None
        self._last_problem = ""

    @property
    def status(self) -> WorkerStatus | None:
        """The last status of the worker that is attached, or None."""
        return self._session.status if self._session else None

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        """Keeps a session up until one ends, or cannot begin, while the address is not wanted any more."""
        pause_s = self._config.reconnect_first_s
        while True:
            was_attached = await self._run_session()
            if not is_wanted():
                return
            await asyncio.sleep(pause_s)
            if was_attached:
                pause_s = self._config.reconnect_first_s
            else:
                pause_s = min(pause_s * 2, self._config.reconnect_last_s)

    async def _run_session(self) -> bool:
        """Dials, and stays while the stream is up; returns whether a worker was attached."""
        problem = "the worker ended the stream"
        async with grpc.aio.insecure_channel(self.address, options=self._channel_options) as channel:
            try:
                async with asyncio.timeout(self._config.connect_timeout_s):
                    await channel.channel_ready()
                call = worker_pb2_grpc.WorkerServiceStub(channel).Dispatch()
                self._session = WorkerSession(call, fleet=self._fleet, pacer=self._pacer)
                await self._session.run(self._attach)
            except TimeoutError:
                problem = "nothing answers"
            except grpc.aio.AioRpcError as error:
                problem = f"{error.code().name}: {error.details()}"
            except (SessionRefused, asyncio.InvalidStateError) as error:
                problem = str(error)
            finally:
                worker = self.status
                self._session = None
        if worker is not None:
            logger.warning("worker %s on %s is lost: %s", worker.worker_id, self.address, problem)
        elif problem != self._last_problem:
            logger.warning("no worker on %s yet: %s", self.address, problem)
        self._last_problem = problem if worker is None else ""
        return worker is not None
