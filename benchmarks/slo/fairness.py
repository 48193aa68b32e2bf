"""A tenant that floods beside nine polite ones; and how far apart tenants get that are backlogged all the time."""

from dataclasses import dataclass, field, replace
from itertools import combinations

from benchmarks.result import RESULTS, Figure
from benchmarks.slo.paper import A10G_S2, DEADLINE_S
from benchmarks.slo.plot import draw_service
from control_plane.core.policy import AdmissionMode, FairnessSettings, Policy, TenantSettings
from control_plane.core.types import Effect, Emitted, SendBatch
from control_plane.simulation.outcome import Outcome
from control_plane.simulation.run import Run
from control_plane.simulation.service import FleetModel
from control_plane.simulation.trace import GammaArrivals, Trace

NUM_POLITE, POLITE_RATE, FLOOD_RATE, DURATION_S = 9, 0.1, 10.0, 300.0
# When the flood begins: after the polite tenants were seen, or with them, on an empty fleet that it fills first.
JOINS_AT_S, AT_ONCE_S = 30.0, 0.0
SEEDS = (1, 2, 3, 4, 5, 6)
WEIGHTS = {"one": 1.0, "two": 1.0, "half": 0.5}
# The paper's server behind this control plane, which sends it requests ahead of their start.
FLEET = FleetModel(service=replace(A10G_S2.fleet.service, window=256, max_running=256))
DEFAULT = Policy("default")


def measure() -> list[Figure]:
    """Polite tenants with and without the flood, over seeds; then three backlogged tenants of unlike weight."""
    joined = [flooded(seed, JOINS_AT_S) for seed in SEEDS]
    at_once = [flooded(seed, AT_ONCE_S) for seed in SEEDS]
    metered = meter(seed=SEEDS[0])
    draw_service(metered.series, metered.bound, joined[0].attainment, RESULTS / "slo-fairness.png")
    return [
        Figure(
            f"polite tenants' attainment beside a flood that begins after {JOINS_AT_S:g} s, by their attainment alone, "
            f"the least of {NUM_POLITE} tenants and {len(SEEDS)} seeds",
            round(min(each.least_kept for each in joined), 3),
            "ratio",
            0.95,
            details={f"seed {seed}": each.details() for seed, each in zip(SEEDS, joined, strict=True)},
        ),
        Figure(
            "the same beside a flood from the first second on, mean of the worst seed",
            round(min(each.mean_kept for each in at_once), 3),
            "ratio",
            0.95,
            details={f"seed {seed}": each.details() for seed, each in zip(SEEDS, at_once, strict=True)},
        ),
        Figure(
            "largest gap between backlogged tenants' service, by the bound of virtual token counters",
            round(metered.largest_gap / metered.bound, 3),
            "ratio",
            1.0,
            at_least=False,
            details={"gap": round(metered.largest_gap), "bound": round(metered.bound), "weights": WEIGHTS},
        ),
    ]


@dataclass(frozen=True)
class Flooded:
    """Attainment by tenant beside a flood, and of the polite ones by what they have alone."""

    attainment: dict[str, float]
    kept: dict[str, float]
    output_tokens_per_s: float

    @property
    def least_kept(self) -> float:
        """The polite tenant's that lost most."""
        return min(self.kept.values())

    @property
    def mean_kept(self) -> float:
        """All polite tenants'."""
        return sum(self.kept.values()) / len(self.kept)

    def details(self) -> dict[str, object]:
        """For a file."""
        kept = {tenant: round(value, 3) for tenant, value in self.kept.items()}
        flood = round(self.attainment["flood"], 3)
        return {"kept": kept, "flood": flood, "output_tokens_per_s": round(self.output_tokens_per_s, 1)}


def flooded(seed: int, begins_s: float) -> Flooded:
    """One seed's polite tenants, each alone and then all of them with the flood."""
    polite = [arrivals(f"polite-{index}", POLITE_RATE, seed * 100 + index) for index in range(NUM_POLITE)]
    alone = {trace.name: Run(trace, DEFAULT, FLEET, seed).play().attainment for trace in polite}
    flood = arrivals("flood", FLOOD_RATE, seed * 100 + 99, DURATION_S - begins_s)
    late = Trace("flood", tuple(replace(each, at_s=each.at_s + begins_s) for each in flood.requests))
    outcome = Run(merged("flood", [*polite, late]), DEFAULT, FLEET, seed).play()
    attainment = {each.tenant: each.attainment for each in outcome.tenants}
    kept = {tenant: attainment[tenant] / alone[tenant] for tenant in alone}
    return Flooded(attainment, kept, outcome.output_tokens_per_s)


def arrivals(tenant: str, rate: float, seed: int, duration_s: float = DURATION_S) -> Trace:
    """One tenant's requests."""
    drawn = GammaArrivals(
        requests_per_s=rate,
        coefficient_of_variation=1.0,
        duration_s=duration_s,
        num_adapters=A10G_S2.num_adapters,
        ranks=A10G_S2.ranks,
        bytes_per_rank=A10G_S2.bytes_per_rank,
        first_token_deadline_s=DEADLINE_S,
    )
    trace = drawn.draw(tenant, seed)
    return Trace(tenant, tuple(replace(each, tenant=tenant) for each in trace.requests))


def merged(name: str, traces: list[Trace]) -> Trace:
    """All requests in order of arrival."""
    return Trace(name, tuple(sorted((each for trace in traces for each in trace.requests), key=lambda each: each.at_s)))


@dataclass
class Metered:
    """What backlogged tenants got, and how far apart they were at most."""

    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    largest_gap: float = 0.0
    bound: float = 0.0
    outcome: Outcome | None = None


def meter(seed: int, duration_s: float = DURATION_S) -> Metered:
    """Runs tenants that all ask for more than there is, and counts what each gets while all of them wait."""
    tenants = tuple(TenantSettings(tenant, weight=weight) for tenant, weight in WEIGHTS.items())
    policy = replace(DEFAULT, fairness=FairnessSettings(tenants=tenants))
    policy = replace(policy, admission=replace(policy.admission, mode=AdmissionMode.FCFS))
    policy = replace(policy, dispatch=replace(policy.dispatch, lookahead=4))
    traces = [arrivals(tenant, 2.0, seed * 10 + index, duration_s) for index, tenant in enumerate(WEIGHTS)]
    run = _MeteredRun(merged("backlogged", traces), policy, FLEET, seed)
    run.metered.outcome = run.play()
    return run.metered


class _MeteredRun(Run):
    """Counts tokens as they are sent and produced, from when all tenants wait until one does not."""

    def __init__(self, trace: Trace, policy: Policy, fleet: FleetModel, seed: int) -> None:
        super().__init__(trace, policy, fleet, seed)
        self.metered = Metered({tenant: [] for tenant in WEIGHTS})
        self._got = dict.fromkeys(WEIGHTS, 0.0)
        self._waiting = dict.fromkeys(WEIGHTS, 0)
        longest_prompt = max(each.prompt_tokens for each in trace.requests)
        # So many pools are promised to what runs, each token counts twice, and no tenant weighs less than the least.
        most_running = 2.0 * policy.dispatch.max_promised * fleet.service.pool_tokens
        self.metered.bound = 2 * max(longest_prompt, most_running) / min(WEIGHTS.values())

    def _arrive(self) -> None:
        self._waiting[self._trace.requests[self._next].tenant] += 1
        super()._arrive()

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, SendBatch):
            for dispatched in effect.requests:
                tenant = dispatched.request.tenant
                self._waiting[tenant] -= 1
                self._count(tenant, len(dispatched.request.prompt_token_ids))
        elif isinstance(effect, Emitted):
            tenant = self._requests[effect.output.request_id].tenant
            self._count(tenant, 2 * len(effect.output.token_ids))
        super()._carry_out(effect)

    def _count(self, tenant: str, weighted: float) -> None:
        if not all(self._waiting.values()):
            self._got = dict.fromkeys(WEIGHTS, 0.0)
            return
        self._got[tenant] += weighted / WEIGHTS[tenant]
        gap = max(abs(self._got[one] - self._got[other]) for one, other in combinations(WEIGHTS, 2))
        self.metered.largest_gap = max(self.metered.largest_gap, gap)
        for name, points in self.metered.series.items():
            if not points or self._now - points[-1][0] >= 1.0:
                points.append((self._now, self._got[name]))
