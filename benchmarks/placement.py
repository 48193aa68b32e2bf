"""What a placement decision takes on a large fleet, and how many adapter loads placement saves on a small one."""

import random
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.result import Figure
from control_plane.core.director import Director
from control_plane.core.placement.pickers.weighted_random import WeightedRandom
from control_plane.core.placement.plugin import PlacementRequest
from control_plane.core.placement.policy import PlacementPolicy
from control_plane.core.placement.profile import Profile, WeightedScorer
from control_plane.core.placement.registry import FILTERS, SCORERS
from control_plane.core.placement.scorers.load import Load
from control_plane.core.policy import Policy
from control_plane.core.types import (
    AdapterRef,
    FinishReason,
    Request,
    RequestArrived,
    ResidencyTier,
    SendBatch,
    SequenceOutput,
    TokensProduced,
    WorkerReported,
    WorkerStatus,
)
from control_plane.simulation.outcome import Outcome
from control_plane.simulation.run import Run
from control_plane.simulation.service import FleetModel, ServiceModel
from control_plane.simulation.trace import Trace, TraceRequest

NUM_WORKERS, NUM_ADAPTERS, NUM_DECISIONS = 1000, 100_000, 10_000
HELD_IN_POOL, HELD_IN_HOST, WINDOW, NUM_IN_FLIGHT = 60, 240, 64, 20_000
SEEDS = (1, 2, 3)

EVERYTHING = Policy(
    "everything",
    placement=PlacementPolicy(
        Profile(
            filters=tuple(kind() for kind in FILTERS.values()),
            scorers=tuple(WeightedScorer(kind(), 1.0) for kind in SCORERS.values()),
        )
    ),
)
RANDOM = Policy(
    "random",
    placement=PlacementPolicy(Profile(scorers=(WeightedScorer(Load(), 1.0),), picker=WeightedRandom(sharpness=0.0))),
)


def measure() -> list[Figure]:
    """The decision's time with the default policy and with every plugin, then the loads in virtual time."""
    fleets = {policy.name: _Fleet(policy) for policy in (Policy("default"), EVERYTHING)}
    times = {name: fleet.decision_times() for name, fleet in fleets.items()}
    arrivals = fleets["default"].arrival_times()
    details = {
        "workers": NUM_WORKERS,
        "adapters": NUM_ADAPTERS,
        "decisions": NUM_DECISIONS,
        "us_of_a_core": {name: _quantiles(values) for name, values in times.items()},
        "us_of_a_core_for_a_whole_arrival": _quantiles(arrivals),
    }
    p50, p99 = (max(float(np.percentile(values, quantile)) * 1e6 for values in times.values()) for quantile in (50, 99))
    where = f"decision among {NUM_WORKERS:,} workers with {NUM_ADAPTERS:,} adapters"
    return [
        Figure(f"{where}, p50", round(p50, 1), "us", 200.0, at_least=False, details=details),
        Figure(f"{where}, p99", round(p99, 1), "us", 1000.0, at_least=False, details=details),
        *_loads(),
    ]


class _Fleet:
    """A director with a large fleet in the middle of its work."""

    def __init__(self, policy: Policy) -> None:
        self._rng = random.Random(1)
        self._policy = policy
        self._director = Director(policy, self._rng)
        self._in_flight: deque[tuple[str, str]] = deque()
        self._num_arrived = 0
        # The k-th adapter is asked for in proportion to 1/k.
        self._shares = np.cumsum(1.0 / np.arange(1, NUM_ADAPTERS + 1))
        for index in range(NUM_WORKERS):
            # Two reports, so that the rates at which workers compute prompts are known.
            first = self._status(f"worker-{index:04}")
            second = replace(first, num_prefill_tokens=self._rng.randrange(5_000, 20_000))
            self._director.on_event(WorkerReported(first), 0.0)
            self._director.on_event(WorkerReported(second), 1.0)
        for _ in range(NUM_IN_FLIGHT):
            self._arrive()

    def decision_times(self) -> list[float]:
        """Seconds of a core for each decision on its own; the request then runs, and the oldest ends."""
        fleet = self._director.fleet_columns
        times = []
        for _ in range(NUM_DECISIONS):
            asked = PlacementRequest(self._request(), now=1.0)
            begin = time.thread_time()
            self._policy.placement.choose(asked, fleet, fleet.has_room, self._rng)
            times.append(time.thread_time() - begin)
            self._end_oldest()
            self._arrive()
        return times

    def arrival_times(self) -> list[float]:
        """Seconds of a core for a request's arrival: admission, clustering, placement and dispatch."""
        times = []
        for _ in range(NUM_DECISIONS // 4):
            self._end_oldest()
            times.append(self._arrive())
        return times

    def _arrive(self) -> float:
        request = self._request()
        begin = time.thread_time()
        effects = self._director.on_event(RequestArrived(request), 1.0)
        taken = time.thread_time() - begin
        (batch,) = [effect for effect in effects if isinstance(effect, SendBatch)]
        self._in_flight.append((batch.worker_id, request.request_id))
        return taken

    def _end_oldest(self) -> None:
        worker_id, request_id = self._in_flight.popleft()
        output = SequenceOutput(request_id, (1,), finish_reason=FinishReason.STOP)
        self._director.on_event(TokensProduced(worker_id, (output,)), 1.0)

    def _request(self) -> Request:
        self._num_arrived += 1
        prompt = tuple(self._rng.choices(range(32_000), k=self._rng.randint(16, 512)))
        return Request(f"r{self._num_arrived}", prompt, 128, 0.0, self._adapter())

    def _adapter(self) -> AdapterRef:
        index = int(self._shares.searchsorted(self._rng.random() * self._shares[-1]))
        return AdapterRef(f"team/{index}", f"sha256:{index:064x}", 8 << index % 4, 20 << 20)

    def _status(self, worker_id: str) -> WorkerStatus:
        tiers = [ResidencyTier.POOL] * HELD_IN_POOL + [ResidencyTier.HOST] * HELD_IN_HOST
        held = {self._adapter().digest: tier for tier in tiers}
        return WorkerStatus(
            worker_id=worker_id,
            base_model="base",
            request_window=WINDOW,
            total_pages=40_000,
            kv_pages=self._rng.randrange(20_000),
            page_size_bytes=1 << 20,
            num_running=self._rng.randrange(WINDOW),
            pending_prefill_tokens=self._rng.randrange(1, 4096),
            residency=tuple(held.items()),
            is_residency_snapshot=True,
        )


@dataclass(frozen=True)
class Zipf:
    """The traffic of the small fleet: about two thirds of what it can serve, and more adapters than a pool holds."""

    num_requests: int = 10_000
    requests_per_s: float = 400.0
    num_adapters: int = 1000
    num_workers: int = 16
    pool_tokens: int = 60_000
    adapter_bytes: int = 40 << 20

    def trace(self, seed: int) -> Trace:
        """Poisson arrivals, adapters by 1/k."""
        rng = np.random.default_rng(seed)
        shares = 1.0 / np.arange(1, self.num_adapters + 1)
        adapters = rng.choice(self.num_adapters, self.num_requests, p=shares / shares.sum())
        arrivals = np.cumsum(rng.exponential(1.0 / self.requests_per_s, self.num_requests))
        prompts, outputs = (rng.integers(8, most, self.num_requests) for most in (512, 256))
        drawn = zip(arrivals.tolist(), adapters.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
        return Trace(
            f"zipf-{seed}",
            tuple(
                TraceRequest(at, prompt, output, f"team/{adapter}", 16, self.adapter_bytes)
                for at, adapter, prompt, output in drawn
            ),
        )

    def play(self, policy: Policy, seed: int) -> Outcome:
        """One policy on the seed's trace."""
        service = ServiceModel(pool_tokens=self.pool_tokens, window=WINDOW, max_running=WINDOW)
        fleet = FleetModel(num_workers=self.num_workers, service=service, latency_s=0.002)
        return Run(self.trace(seed), policy, fleet, seed).play()


def _loads() -> list[Figure]:
    zipf = Zipf()
    outcomes = {policy.name: [zipf.play(policy, seed) for seed in SEEDS] for policy in (RANDOM, Policy("default"))}
    loads = {name: sum(each.adapter_loads for each in played) for name, played in outcomes.items()}
    balance = {name: min(each.load_balance for each in played) for name, played in outcomes.items()}
    details = {
        "traffic": vars(zipf),
        "seeds": list(SEEDS),
        "policies": {
            name: [
                {
                    "adapter_loads": each.adapter_loads,
                    "adapter_fetches": each.adapter_fetches,
                    "balance": round(each.load_balance, 4),
                    "first_token_p99_ms": round(each.first_token.p99 * 1000, 1),
                }
                for each in played
            ]
            for name, played in outcomes.items()
        },
    }
    where = f"zipf traffic on {zipf.num_workers} workers"
    return [
        Figure(
            f"adapter loads by random placement's, {where}",
            round(loads["default"] / loads["random"], 3),
            "ratio",
            0.3,
            at_least=False,
            details=details,
        ),
        Figure(
            f"Jain's index of the workers' tokens by random placement's, {where}",
            round(balance["default"] / balance["random"], 4),
            "ratio",
            0.99,
            details=details,
        ),
    ]


def _quantiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, (50, 99)).tolist()
    return {"p50": round(p50 * 1e6, 1), "p99": round(p99 * 1e6, 1), "max": round(max(values) * 1e6, 1)}
