"""The services of one machine: an embedded Redis, the adapter store, the control plane and the workers."""

import errno
import json
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from multitude.client import Client
from multitude.errors import LocalStackError
from multitude.local.process import ServiceProcess, interrupts_deferred
from multitude.local.redis import redis_command

TREE = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_RESTART_SECONDS, _MAX_RESTART_SECONDS = 5.0, 60.0  # from one start of a worker to its next
_DRAIN_SECONDS = 1.0  # on one machine, who stops the services is who waits for them
# None that systems hand out by themselves: others would be given it before the service takes it.
_FIRST_PORT, _NUM_PORTS = 20_000, 12_000


@dataclass(frozen=True)
class LocalConfig:
    """What to run.

    Attributes:
        model: a Hugging Face model directory.
        model_name: what clients and adapters call it; empty: the directory's name.
        num_workers: GPU or CPU workers.
        address: of the control plane; port 0 takes a free one.
        store_address: of the adapter store; port 0 takes a free one.
        data_dir: where the store keeps adapters; None: a temporary folder, gone at the end.
        redis_url: a Redis to use instead of the embedded one.
        policy: a placement policy file; None: the default one.
        start_seconds: how long a service may take to start.
        worker_settings: `--set` values for every worker.
        control_plane_settings: `--set` values for the control plane.
        store_settings: `--set` values for the adapter store.
    """

    model: Path
    model_name: str = ""
    num_workers: int = 1
    address: str = "127.0.0.1:7000"
    store_address: str = "127.0.0.1:7001"
    data_dir: Path | None = None
    redis_url: str | None = None
    policy: Path | None = None
    start_seconds: float = 120.0
    worker_settings: dict[str, object] = field(default_factory=dict)
    control_plane_settings: dict[str, object] = field(default_factory=dict)
    store_settings: dict[str, object] = field(default_factory=dict)


class LocalStack:
    """Starts and stops the services; a context manager. Use it from one thread that outlives it.

    Attributes:
        address: of the control plane, once started.
        store_address: of the adapter store, once started.
        run_dir: logs and sockets; removed at the end unless a service failed.
        workers: the workers' processes.
    """

    def __init__(self, config: LocalConfig, *, report: Callable[[str], None] = lambda _: None) -> None:
        if not (TREE / "worker" / "__main__.py").is_file():
            raise LocalStackError(
                "the services are not beside this package: run them from a clone of Multitude (`make serve`) or as "
                "containers (`docker compose up`); the wheel holds the client and the command alone",
                reason="SERVICES_NOT_FOUND",
            )
        self._config = config
        self._report = report
        self._services: dict[str, ServiceProcess] = {}
        self._failed = False
        self._restart_times: dict[str, float] = {}
        self._restart_pauses: dict[str, float] = {}
        self.run_dir = Path(tempfile.mkdtemp(prefix="multitude-"))
        self.address = _with_port(config.address)
        self.store_address = _with_port(config.store_address)
        self._redis_url = config.redis_url or f"unix://{self.run_dir / 'redis.sock'}"

    @property
    def workers(self) -> tuple[ServiceProcess, ...]:
        """The workers' processes, in order."""
        return tuple(service for name, service in self._services.items() if name.startswith("worker-"))

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by service."""
        return {name: service.pid for name, service in self._services.items()}

    def start(self) -> None:
        """Starts everything at once, and returns when everything serves.

        Errors: LocalStackError with the end of the failed service's log; everything is stopped then.
        """
        try:
            if self._config.redis_url is None:
                self._start("redis", redis_command(self.run_dir / "redis.sock"), awaits_ready=False)
            self._start("adapter_store", self._service("adapter_store", self._store_settings()))
            self._start("control_plane", self._service("control_plane", self._control_plane_settings()))
            for index in range(self._config.num_workers):
                self._start(f"worker-{index}", self._service("worker", self._worker_settings(index)))
            for name, service in self._services.items():
                if name != "redis":
                    self._report(f"{name} on {service.wait_ready(self._config.start_seconds)}")
                    self._expect_shared()  # Redis says nothing when it serves, and soon ends if it cannot
            self._await_workers(time.monotonic() + self._config.start_seconds)
        except BaseException as error:
            self._failed = isinstance(error, LocalStackError)  # an interrupt leaves no logs to look at
            self.stop()
            raise

    def check(self) -> None:
        """Restarts workers that ended, one that keeps ending after longer and longer pauses.

        Errors: LocalStackError if another service ended.
        """
        self._expect_shared()
        for name, service in list(self._services.items()):
            if service.exit_code is None or time.monotonic() < self._restart_times.get(name, 0.0):
                continue
            pause = min(2 * self._restart_pauses.get(name, _RESTART_SECONDS / 2), _MAX_RESTART_SECONDS)
            self._restart_pauses[name] = pause
            self._restart_times[name] = time.monotonic() + pause
            self._report(f"{name} ended with code {service.exit_code}; starting it again")
            index = int(name.removeprefix("worker-"))
            self._start(name, self._service("worker", self._worker_settings(index)))

    def stop(self) -> None:
        """Stops everything, the workers first; safe to call twice. An interrupt meanwhile comes at the end."""
        with interrupts_deferred():
            services = list(self._services.values())
            for service in reversed(services):
                service.terminate()
            for service in reversed(services):
                service.wait(_STOP_SECONDS)
            self._services.clear()
            if not self._failed:
                shutil.rmtree(self.run_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_workers(self, deadline: float) -> None:
        """Waits until the control plane found every worker, so that the first requests are spread over all."""
        with Client(self.address, store_address=self.store_address) as client:
            while sum(worker.is_attached for worker in client.fleet().workers) < self._config.num_workers:
                if time.monotonic() > deadline:
                    raise LocalStackError(
                        f"the control plane did not find all {self._config.num_workers} workers; see {self.run_dir}",
                        reason="SERVICE_NOT_STARTED",
                    )
                time.sleep(_POLL_SECONDS)

    def _expect_shared(self) -> None:
        """Fails if a service that all need ended."""
        for name, service in self._services.items():
            if service.exit_code is not None and not name.startswith("worker-"):
                self._failed = True
                raise LocalStackError(
                    f"{name} ended with code {service.exit_code}; the end of its log ({service.log}):\n"
                    f"{service.log_tail()}",
                    reason="SERVICE_ENDED",
                )

    def _start(self, name: str, command: list[str], *, awaits_ready: bool = True) -> None:
        log = self.run_dir / f"{name}.log"
        with interrupts_deferred():
            self._services[name] = ServiceProcess(name, command, log=log, folder=TREE, awaits_ready=awaits_ready)

    def _service(self, module: str, settings: dict[str, object]) -> list[str]:
        words = [f"{key}={value}" for key, value in settings.items()]
        return [sys.executable, "-m", module, *(word for setting in words for word in ("--set", setting))]

    def _model_settings(self) -> dict[str, object]:
        name = {"model.name": _quoted(self._config.model_name)} if self._config.model_name else {}
        return {"model.path": _quoted(self._config.model.resolve()), **name}

    def _store_settings(self) -> dict[str, object]:
        return {
            "listen": self.store_address,
            "data_dir": _quoted((self._config.data_dir or self.run_dir / "store").resolve()),
            **self._model_settings(),
            **self._config.store_settings,
        }

    def _control_plane_settings(self) -> dict[str, object]:
        policy = {"policy_file": _quoted(self._config.policy.resolve())} if self._config.policy else {}
        return {
            "listen": self.address,
            **self._model_settings(),
            "redis.url": _quoted(self._redis_url),
            "store_address": self.store_address,
            "drain_seconds": _DRAIN_SECONDS,
            **policy,
            **self._config.control_plane_settings,
        }

    def _worker_settings(self, index: int) -> dict[str, object]:
        return {
            "worker_id": f"worker-{index}",
            "listen": "127.0.0.1:0",
            **self._model_settings(),
            "redis.url": _quoted(self._redis_url),
            "store_address": self.store_address,
            "drain_seconds": _DRAIN_SECONDS,
            **self._config.worker_settings,
        }


def _quoted(value: object) -> str:
    """Text as YAML that is read as this text, whatever stands in it: the services read the values of --set as YAML."""
    return json.dumps(str(value), ensure_ascii=False)


def _with_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if port != "0":
        return address
    while True:
        with socket.socket() as probe:
            try:
                probe.bind((host, _FIRST_PORT + secrets.randbelow(_NUM_PORTS)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return f"{host}:{probe.getsockname()[1]}"
