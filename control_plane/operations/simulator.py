"""Runs simulations for operators, one at a time, each in a process of its own."""

import asyncio
import base64
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from control_plane.core.errors import RequestError
from control_plane.errors import (
    InternalError,
    PolicyInvalid,
    SimulationBusy,
    SimulationInvalid,
    SimulationTooLong,
    TraceInvalid,
)
from control_plane.simulation.service import WorkerTraits
from multitude.v1 import fleet_pb2

logger = logging.getLogger(__name__)

MAX_POLICIES: Final = 16
MAX_WORKERS: Final = 10_000
BUSY_RETRY_S: Final = 5.0
ERRORS: Final = {each.reason: each for each in (TraceInvalid, PolicyInvalid, SimulationInvalid)}


class Simulator:
    """Checks what is asked, and asks a process."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._is_busy = False

    async def simulate(
        self, message: fleet_pb2.SimulatePoliciesRequest, workers: Sequence[WorkerTraits]
    ) -> fleet_pb2.SimulatePoliciesResponse:
        """The outcome of each policy, on workers like these; on as many if the message names no number.

        Raises TraceInvalid, PolicyInvalid, SimulationInvalid, SimulationBusy, SimulationTooLong.
        """
        if not 1 <= len(message.policies) <= MAX_POLICIES:
            raise SimulationInvalid("policies", f"holds {len(message.policies)}; name 1 to {MAX_POLICIES}")
        if not 0 <= message.worker_count <= MAX_WORKERS:
            raise SimulationInvalid("worker_count", f"is {message.worker_count}; it must be in [1, {MAX_WORKERS}]")
        if self._is_busy:
            raise SimulationBusy("another simulation runs here: wait for its end", retry_after_s=BUSY_RETRY_S)
        asked = {
            "trace": message.trace,
            "compressed_trace": base64.b64encode(message.compressed_trace).decode(),
            "policies": [(policy.label, policy.yaml) for policy in message.policies],
            "workers": message.worker_count or max(1, len(workers)),
            "fleet": [asdict(worker) for worker in workers],
            "seed": message.seed,
            "costs": dict(message.costs),
            "service": message.service,
        }
        self._is_busy = True
        try:
            answer = await self._ask(json.dumps(asked).encode())
        finally:
            self._is_busy = False
        if "error" in answer:
            error = answer["error"]
            raise ERRORS[error["reason"]](error["field"], error["message"])
        return fleet_pb2.SimulatePoliciesResponse(outcomes=map(_encode_outcome, answer["outcomes"]))

    async def _ask(self, asked: bytes) -> Any:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "control_plane.operations.simulation"), stdin=pipe, stdout=pipe, stderr=pipe
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                answer, problems = await process.communicate(asked)
        except TimeoutError:
            raise self._too_long() from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            logger.error("a simulation failed: %s", problems.decode(errors="replace"))
            raise InternalError("the simulation failed; the control plane's log has the traceback")
        return json.loads(answer)

    def _too_long(self) -> RequestError:
        return SimulationTooLong(
            f"the simulation took longer than {self._timeout_s:g} s: shorten the trace, name fewer policies or"
            " workers, or raise simulation_timeout_s"
        )


def _encode_outcome(outcome: Mapping[str, Any]) -> fleet_pb2.SimulatedOutcome:
    return fleet_pb2.SimulatedOutcome(
        label=outcome["label"],
        request_count=outcome["num_requests"],
        finished_count=outcome["num_finished"],
        attainment=outcome["attainment"],
        satisfaction=outcome["satisfaction"],
        fairness=outcome["fairness"],
        first_token=_encode_times(outcome["first_token"]),
        output_token=_encode_times(outcome["time_per_output_token"]),
        output_tokens_per_s=outcome["output_tokens_per_s"],
        requests_per_s=outcome["requests_per_s"],
        adapter_load_count=outcome["adapter_loads"],
        adapter_fetch_count=outcome["adapter_fetches"],
        load_balance=outcome["load_balance"],
        error_counts=outcome["errors"],
        tenants=[
            fleet_pb2.SimulatedTenant(
                tenant=tenant["tenant"],
                request_count=tenant["num_requests"],
                attainment=tenant["attainment"],
                error_count=tenant["num_refused"],
                output_token_count=tenant["num_tokens"],
            )
            for tenant in outcome["tenants"]
        ],
        duration_ms=outcome["duration_s"] * 1000,
        first_token_curve_ms=[seconds * 1000 for seconds in outcome["first_token_curve_s"]],
        output_token_counts=outcome["output_tokens"],
        prediction_error_ms=outcome["predictor_error_s"] * 1000,
    )


def _encode_times(times: Mapping[str, float]) -> fleet_pb2.SimulatedTimes:
    return fleet_pb2.SimulatedTimes(**{f"{name}_ms": seconds * 1000 for name, seconds in times.items()})
